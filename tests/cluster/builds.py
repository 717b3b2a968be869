"""Go programs and npm packages, made once per version in the cache and shared by every checkout on the machine."""

import json
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path

from cluster.locks import exclusive
from cluster.places import cache_dir
from cluster.versions import KUBERNETES, NPM_PACKAGES, PROGRAMS, GoProgram

BUILD_SECONDS = 3600
"""A cold build of Kubernetes takes 8 minutes on two idle cores, and far longer on busy ones."""

_KUBERNETES_MODULE = "k8s.io/kubernetes"


class BuildError(Exception):
    """A program could not be built or installed; the last lines of Go or npm say why."""

    def __init__(self, what: str, output: str) -> None:
        super().__init__(f"could not make {what}; is Go or npm there, and its registry reachable?\n{output[-4000:]}")


def program(name: str) -> Path:
    """Return the built program of that name, building it first where the cache has none."""
    return programs([name])[name]


def programs(names: Iterable[str]) -> dict[str, Path]:
    """Return the built programs by name; a program that is in the cache already costs nothing."""
    wanted = [PROGRAMS[name] for name in names]
    folder = cache_dir() / "bin"
    folder.mkdir(parents=True, exist_ok=True)
    if _missing(folder, wanted):
        with exclusive(folder / ".lock"):
            _build(folder, _missing(folder, wanted))
    return {chosen.name: folder / chosen.file_name for chosen in wanted}


def lacking(*, programs: Iterable[str] = (), packages: Iterable[str] = ()) -> str:
    """Return what the cache has not and this machine can't make, in words; empty if nothing is lacking."""
    to_build = _missing(cache_dir() / "bin", [PROGRAMS[name] for name in programs]) if not shutil.which("go") else []
    to_install = [name for name in packages if not _package_folder(name).exists()] if not shutil.which("npm") else []
    words = [f"{one.name} can't be built: there is no Go" for one in to_build]
    return "; ".join(words + [f"{name} can't be installed: there is no npm" for name in to_install])


def npm_package(name: str) -> Path:
    """Return the folder of an installed npm package, installing it with all that it needs where the cache has none."""
    folder = _package_folder(name)
    folder.parent.mkdir(parents=True, exist_ok=True)
    if not folder.exists():
        with exclusive(folder.parent / ".lock"), tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
            if not folder.exists():
                flags = ["--ignore-scripts", "--no-audit", "--no-fund", "--no-package-lock", "--prefix", "installed"]
                _run(name, "npm", "install", *flags, f"{name}@{NPM_PACKAGES[name]}", cwd=Path(scratch))
                Path(scratch, "installed").rename(folder)
    return folder / "node_modules" / name


def pause() -> Path:
    """Return a static program that waits for a signal and reaps orphans: the first process of a set of namespaces."""
    source = Path(__file__).with_name("pause.go")
    built = cache_dir() / "bin" / "pause"
    if not built.exists() or built.stat().st_mtime < source.stat().st_mtime:
        built.parent.mkdir(parents=True, exist_ok=True)
        with exclusive(built.parent / ".lock"):
            _go("pause", "build", "-trimpath", "-ldflags", "-s -w", "-o", str(built), str(source), cwd=source.parent)
    return built


def _package_folder(name: str) -> Path:
    return cache_dir() / "npm" / f"{name}-{NPM_PACKAGES[name]}"


def _missing(folder: Path, wanted: list[GoProgram]) -> list[GoProgram]:
    return [chosen for chosen in wanted if not (folder / chosen.file_name).exists()]


def _build(folder: Path, missing: list[GoProgram]) -> None:
    with tempfile.TemporaryDirectory(prefix=".build-", dir=folder) as scratch:
        work = Path(scratch)
        kubernetes = [chosen for chosen in missing if chosen.package.startswith(_KUBERNETES_MODULE)]
        if kubernetes:
            _build_kubernetes(work, kubernetes)
        for chosen in missing:
            if chosen not in kubernetes:
                flags = ["-trimpath", "-ldflags", chosen.linker_flags, f"{chosen.package}@{chosen.version}"]
                _go(chosen.name, "install", *flags, cwd=work, environment={"GOBIN": str(work)})
            # The compiler names a program after its package's folder.
            (work / Path(chosen.package).name).rename(folder / chosen.file_name)
            plain = folder / chosen.name
            plain.unlink(missing_ok=True)
            plain.symlink_to(chosen.file_name)


def _build_kubernetes(work: Path, chosen: list[GoProgram]) -> None:
    """Build Kubernetes as a dependency of a module made up here.

    `go install` refuses a module whose go.mod has `replace` lines, and Kubernetes replaces its staging modules by
    folders that the published module lacks. The same modules are published apart, as v0.MINOR.PATCH.
    """
    module = work / "module"
    module.mkdir()
    version = f"{_KUBERNETES_MODULE}@{KUBERNETES}"
    download = json.loads(_go(version, "mod", "download", "-json", version, cwd=module))
    (module / "go.mod").write_text(_go_mod(Path(download["GoMod"]).read_text()))
    packages = [one.package for one in chosen]
    flags = ["-mod=mod", "-trimpath", "-ldflags", chosen[0].linker_flags, "-o", f"{work}/"]
    _go(version, "build", *flags, *packages, cwd=module)


def _go_mod(theirs: str) -> str:
    """Return a go.mod that requires Kubernetes and takes its staging modules from their published versions."""
    staging = re.findall(r"^\s*(k8s\.io/\S+) v0\.0\.0$", theirs, re.MULTILINE)
    go_version = re.findall(r"^go (\S+)$", theirs, re.MULTILINE)[0]
    lines = ["module cluster", f"go {go_version}", f"require {_KUBERNETES_MODULE} {KUBERNETES}"]
    lines += [f"replace {name} => {name} {KUBERNETES.replace('v1.', 'v0.', 1)}" for name in staging]
    return "\n".join(lines) + "\n"


def _go(what: str, *arguments: str, cwd: Path, environment: Mapping[str, str] | None = None) -> str:
    return _run(what, "go", *arguments, cwd=cwd, environment={"CGO_ENABLED": "0", **(environment or {})})


def _run(what: str, *command: str, cwd: Path, environment: Mapping[str, str] | None = None) -> str:
    if not shutil.which(command[0]):
        raise BuildError(what, f"{command[0]} is not on PATH")
    done = subprocess.run(
        command,
        cwd=cwd,
        env={**os.environ, **(environment or {})},
        capture_output=True,
        text=True,
        timeout=BUILD_SECONDS,
        check=False,
    )
    if done.returncode:
        raise BuildError(what, done.stdout + done.stderr)
    return done.stdout
