"""The images of the operator and its workers, built from the tree without a container engine.

An image's tag follows the content that it is built from: an unchanged tree costs nothing, and a pod can't get an older
image than its name says. Layers stay in the cache, so that torch is installed once per version of it.
"""

import configparser
import hashlib
import os
import shlex
import shutil
import tempfile
import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from cluster.builds import pause
from cluster.places import TREE, cache_dir
from cluster.processes import CommandError, run

TARGETS: Final = ("operator", "worker", "examples")
PAUSE_IMAGE: Final = "localhost:5000/pause:1"
"""What holds a pod's namespaces."""
NAMES: Final = {"operator": "dcp-operator", "worker": "dcp-worker", "examples": "dcp-examples"}

_BASE: Final = "localhost/dcp-base"
_SUITE: Final = "bookworm"
_BUILD_SECONDS: Final = 1800
_SOURCES: Final = ("Dockerfile", ".dockerignore", "LICENSE", "README.md", "pyproject.toml", "requirements-*.txt")
_FOLDERS: Final = ("operator", "worker", "examples")


class NoMirrorError(Exception):
    """The machine's apt sources name no Debian mirror to take the base image from."""

    def __init__(self) -> None:
        super().__init__("no Debian mirror in /etc/apt: name one there, as `deb URL SUITE main`")


def tag() -> str:
    """Return the tag that stands for all that the images are built from."""
    digest = hashlib.sha256()
    files = [path for pattern in _SOURCES for path in TREE.glob(pattern)]
    files += [path for name in _FOLDERS for path in (TREE / name).rglob("*") if path.is_file()]
    for path in sorted(files):
        if path.suffix != ".pyc":
            digest.update(f"{path.relative_to(TREE)}\0".encode())
            digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()[:12]


class Builder:
    """buildah on the cache's storage; `registry` is where images are pushed to, plain HTTP."""

    def __init__(self, folder: Path, registry: str) -> None:
        self._registry = registry
        storage = cache_dir() / "buildah"
        storage.mkdir(parents=True, exist_ok=True)
        self._buildah = ["buildah", "--root", str(storage), "--runroot", str(folder / "buildah")]
        self._buildah += ["--storage-driver", "overlay"]

    def ensure(self, targets: Sequence[str] = TARGETS) -> dict[str, str]:
        """Build and push what the registry lacks; return target -> image name as the node knows it."""
        current = tag()
        for target in targets:
            if not self._pushed(NAMES[target], current):
                self._build(target, current)
        if not self._pushed("pause", "1"):
            self._build_pause()
        return {target: f"localhost:5000/{NAMES[target]}:{current}" for target in targets}

    def _build(self, target: str, current: str) -> None:
        name = f"{self._registry}/{NAMES[target]}:{current}"
        with tempfile.TemporaryDirectory() as scratch:
            arguments = ["--build-arg", f"BASE_IMAGE={self._base()}", "--target", target, *_secrets(Path(scratch))]
            self._run("build", "--layers", *_CHROOT, *arguments, "--tag", name, str(TREE))
        self._push(name)

    def _push(self, name: str) -> None:
        # The registry is on this machine: packing gigabytes would only cost time.
        self._run("push", "--tls-verify=false", "--disable-compression", name, f"docker://{name}")

    def _base(self) -> str:
        """Return the base image: a minimal Debian with Python, from the machine's own Debian mirror."""
        name = f"{_BASE}:{_SUITE}"
        try:
            self._run("inspect", "--type", "image", name)
        except CommandError:
            with tempfile.TemporaryDirectory(dir=cache_dir()) as scratch:
                root = Path(scratch) / "root"
                packages = "--include=python3,python3-venv,ca-certificates"
                run(
                    ["debootstrap", "--variant=minbase", packages, _SUITE, root, _debian_mirror()],
                    timeout=_BUILD_SECONDS,
                )
                shutil.rmtree(root / "var/cache/apt/archives")
                self._from_scratch(name, Path(scratch), "COPY root /")
        return name

    def _build_pause(self) -> None:
        name = f"{self._registry}/pause:1"
        with tempfile.TemporaryDirectory(dir=cache_dir()) as scratch:
            shutil.copy(pause(), Path(scratch) / "pause")
            self._from_scratch(name, Path(scratch), 'COPY pause /\nUSER 65535:65535\nENTRYPOINT ["/pause"]')
        self._push(name)

    def _from_scratch(self, name: str, context: Path, instructions: str) -> None:
        (context / "Dockerfile").write_text(f"FROM scratch\n{instructions}\n")
        self._run("build", *_CHROOT, "--tag", name, str(context))

    def _pushed(self, name: str, version: str) -> bool:
        url = f"http://{self._registry}/v2/{name}/manifests/{version}"
        accept = {"Accept": "application/vnd.oci.image.manifest.v1+json"}
        try:
            urllib.request.urlopen(urllib.request.Request(url, headers=accept), timeout=10).close()
        except urllib.error.HTTPError:
            return False
        return True

    def _run(self, *arguments: str) -> None:
        run([*self._buildah, *arguments], timeout=_BUILD_SECONDS)


_CHROOT: Final = ("--isolation", "chroot", "--network", "host")
"""A build without a container: no namespaces to set up, the machine's network for the package index."""


def _secrets(scratch: Path) -> list[str]:
    """Return the build's secrets: where this machine's pip takes packages from, and whom it trusts."""
    taken = {"index-url", "extra-index-url", "trusted-host", "timeout", "proxy"}
    settings = {"timeout": "120"}
    for line in run(["python3", "-m", "pip", "config", "list"]).splitlines():
        # global.index-url='https://...'
        key, _, value = line.partition("=")
        name = key.rpartition(".")[2]
        if name in taken:
            settings[name] = shlex.split(value)[0]
    secrets = []
    bundle = os.environ.get("SSL_CERT_FILE", "/etc/ssl/certs/ca-certificates.crt")
    if Path(bundle).exists():
        settings["cert"] = "/run/ca-bundle.crt"
        secrets += ["--secret", f"id=ca-bundle,src={bundle}"]
    config = configparser.RawConfigParser()
    config["global"] = settings
    with (scratch / "pip.conf").open("w") as file:
        config.write(file)
    return [*secrets, "--secret", f"id=pip-config,src={scratch / 'pip.conf'}"]


def _debian_mirror() -> str:
    """Return the first Debian mirror of the machine's own apt sources, in either of the two formats."""
    for path in [Path("/etc/apt/sources.list"), *sorted(Path("/etc/apt/sources.list.d").glob("*"))]:
        for line in path.read_text().splitlines() if path.exists() else ():
            fields = line.split()
            if line.startswith(("URIs:", "deb ")):
                mirror = next(field for field in fields if "://" in field)
                if mirror.rstrip("/").endswith("/debian"):
                    return mirror
    raise NoMirrorError
