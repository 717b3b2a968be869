"""A cluster of plain processes in namespaces of their own: for machines without a container engine. Root on Linux."""

import os
import shutil
import sys
from concurrent.futures import ThreadPoolExecutor

from cluster.builds import lacking, programs
from cluster.controlplane import ControlPlane
from cluster.facts import S3, Facts
from cluster.images import PAUSE_IMAGE, Builder
from cluster.node import Node
from cluster.places import run_dir
from cluster.processes import Processes
from cluster.sandbox import NODE_ADDRESS, Sandbox
from cluster.services import REGISTRY, start_dns, start_registry, start_s3
from cluster.versions import CLUSTER, missing_packages


class UnfitMachineError(Exception):
    """This machine can't have a cluster as it is; the message is one line that says what to do."""


class NotRootError(UnfitMachineError):
    """Namespaces, mounts and containers need root, on Linux."""

    def __init__(self) -> None:
        super().__init__("without a Docker engine a cluster needs root on Linux")


class MissingPackagesError(UnfitMachineError):
    """The machine lacks programs that a bare cluster needs."""

    def __init__(self, packages: list[str]) -> None:
        command = f"apt-get install --yes --no-install-recommends {' '.join(packages)}"
        super().__init__(f"a cluster needs a few programs more; on Debian: {command}")


class NotBuildableError(UnfitMachineError):
    """The machine lacks what the cluster's own programs are made with."""

    def __init__(self, lacking: str) -> None:
        super().__init__(f"a cluster needs programs that are not in the cache: {lacking}")


class Bare:
    """The bare provider. Its state is the run folder's, so that `down` may be another command's."""

    def __init__(self) -> None:
        self._folder = run_dir()
        self._sandbox = Sandbox(self._folder)

    def up(self) -> Facts:
        """Bring up what is not up, and the images up to date; return what tests need to know."""
        _check_machine()
        programs(CLUSTER)
        standing = self._standing()
        if not standing:
            self.down()
            self._folder.mkdir(parents=True, mode=0o700)
            self._sandbox.create()
        inside = self._sandbox.processes()
        plane = ControlPlane(self._folder, inside, NODE_ADDRESS)
        node = Node(self._sandbox, plane)
        if not standing:
            start_registry(inside, plane)
        with ThreadPoolExecutor() as pool:
            images = pool.submit(Builder(self._folder, REGISTRY).ensure)
            s3 = standing.s3 if standing else _start(inside, plane, node)
        for image in (PAUSE_IMAGE, *images.result().values()):
            node.pull(image)
        facts = Facts("bare", str(plane.kubeconfig()), s3, images.result())
        facts.write()
        return facts

    def _standing(self) -> Facts | None:
        """Return the running cluster's facts; None where there is none, or a half of one."""
        whole = self._sandbox.running() and all(process.alive() for process in Processes(self._folder).all())
        return Facts.read() if whole and Facts.known() else None

    def down(self) -> None:
        """End exactly what `up` started and remove its files; the cache stays."""
        self._sandbox.remove()
        if self._folder.exists():
            shutil.rmtree(self._folder)


def _start(inside: Processes, plane: ControlPlane, node: Node) -> S3:
    plane.start()
    plane.start_scheduler()
    node.start_containerd(inside)
    node.start(inside)
    start_dns(inside, plane)
    return start_s3(inside, plane.folder, NODE_ADDRESS)


def _check_machine() -> None:
    if not sys.platform.startswith("linux") or os.geteuid() != 0:
        raise NotRootError
    if missing := missing_packages():
        raise MissingPackagesError(missing)
    if missing_programs := lacking(programs=CLUSTER):
        raise NotBuildableError(missing_programs)
