"""A cluster by kind, for machines with a Docker engine.

Written to kind's and Docker's documented commands; the project's own runs use the bare provider, so that this one is
not exercised there.
"""

import json
import shutil
import subprocess

from cluster.builds import program
from cluster.facts import Facts
from cluster.images import NAMES, TARGETS, tag
from cluster.places import TREE, run_dir
from cluster.processes import Processes, run
from cluster.services import start_s3

_NAME = "dcp-operator"
_BUILD_SECONDS = 1800


def docker_answers() -> bool:
    """Return whether a Docker engine is there and talks to this user."""
    if not shutil.which("docker"):
        return False
    try:
        done = subprocess.run(["docker", "info"], capture_output=True, timeout=20, check=False)
    except subprocess.TimeoutExpired:
        return False
    return done.returncode == 0


class Kind:
    """The kind provider: images go straight into the node, the S3 server listens on the bridge that the node is on."""

    def __init__(self) -> None:
        self._folder = run_dir()
        self._processes = Processes(self._folder)
        self._kubeconfig = self._folder / "kubeconfig"

    def up(self) -> Facts:
        """Bring up what is not up, and the images up to date; return what tests need to know."""
        standing = self._standing()
        self._folder.mkdir(parents=True, mode=0o700, exist_ok=True)
        if not standing:
            self._kind("create", "cluster", "--kubeconfig", str(self._kubeconfig), "--wait", "120s")
        s3 = standing.s3 if standing else start_s3(self._processes, self._folder, _gateway())
        facts = Facts("kind", str(self._kubeconfig), s3, {target: self._image(target) for target in TARGETS})
        facts.write()
        return facts

    def down(self) -> None:
        """Delete the cluster, end the S3 server and remove the files; Docker keeps the image layers."""
        self._kind("delete", "cluster")
        self._processes.end_all()
        if self._folder.exists():
            shutil.rmtree(self._folder)

    def _standing(self) -> Facts | None:
        up = _NAME in run([program("kind"), "get", "clusters"]).split()
        return Facts.read() if up and Facts.known() else None

    def _image(self, target: str) -> str:
        image = f"localhost:5000/{NAMES[target]}:{tag()}"
        run(["docker", "build", "--target", target, "--tag", image, TREE], timeout=_BUILD_SECONDS)
        self._kind("load", "docker-image", image)
        return image

    def _kind(self, *arguments: str) -> None:
        run([program("kind"), *arguments, "--name", _NAME], timeout=_BUILD_SECONDS)


def _gateway() -> str:
    """Return the machine's IPv4 address on the network of kind's nodes."""
    networks = json.loads(run(["docker", "network", "inspect", "kind"]))
    gateways: list[str] = [config.get("Gateway", "") for config in networks[0]["IPAM"]["Config"]]
    return next(gateway for gateway in gateways if "." in gateway)
