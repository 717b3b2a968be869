"""The cluster's own network, process and mount namespaces, so that the machine stays as it was.

Everything of a cluster runs inside: its bridges, routes and iptables chains, its mounts, its containers. One first
process holds the namespaces; when it ends, the kernel ends all the rest and takes network and mounts away. What
remains are cgroups, which belong to no namespace, and files in the run folder.

One pair of virtual interfaces leads in: the cluster's services answer at NODE_ADDRESS, from the machine, from pods,
and from nowhere else. There is no way out.
"""

import os
import signal
from contextlib import suppress
from pathlib import Path
from typing import Final

from cluster.builds import pause
from cluster.controlplane import SERVICE_RANGE
from cluster.processes import CommandError, Process, Processes, run, until

HOST_ADDRESS: Final = "10.90.0.1"
"""The machine, seen from pods."""
NODE_ADDRESS: Final = "10.90.0.2"
"""The node, seen from the machine and from pods."""
POD_RANGE: Final = "10.244.0.0/16"
CGROUP: Final = "dcp-operator"

_LINK: Final = "dcp-operator0"
_INTERFACES: Final = Path("/sys/class/net")
_HOLDER: Final = "namespaces"
_CGROUPS: Final = Path("/sys/fs/cgroup")
_WEIGHTS: Final = {"cpu.shares": 8192, "cpu.weight": 800}
"""What all pods together weigh, in processes, on cgroup v1 and v2. The default, one, starves them on a busy machine."""


class Sandbox:
    """The namespaces of one run folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._outside = Processes(folder)

    def running(self) -> bool:
        """Return whether the namespaces stand."""
        try:
            return self._holder().alive()
        except KeyError:
            return False

    def processes(self) -> Processes:
        """Return what starts programs inside."""
        return Processes(self.folder, self._enter(), forks=True)

    def run(self, *command: str | Path) -> str:
        """Run a short command inside and return its output."""
        return run([*self._enter(), *command])

    def create(self) -> None:
        """Make the namespaces, their mounts, the link to the machine and the cgroup of all pods."""
        unshare = ["unshare", "--net", "--pid", "--mount", "--fork", "--mount-proc"]
        holder = Processes(self.folder, unshare, forks=True).start(_HOLDER, [pause()])
        # unshare forks first and mounts afterwards: the program's own name shows that it is done.
        name = Path(f"/proc/{holder.pid}/comm")
        self._outside.wait(_HOLDER, lambda: name.read_text().strip() == "pause")
        self._mount()
        self._connect(holder)
        _make_cgroup()

    def remove(self) -> None:
        """End the first process, and with it everything inside; then remove the cgroups."""
        if self.running():
            self._holder().send(signal.SIGKILL)
            until(lambda: not self._holder().alive(), "the end of the namespaces")
        if (_INTERFACES / _LINK).exists():
            # The kernel takes a dead namespace's interfaces away, but in its own time.
            with suppress(CommandError):
                run(["ip", "link", "delete", _LINK])
            until(lambda: not (_INTERFACES / _LINK).exists(), "the removal of the link")
        until(_remove_cgroup, "the removal of the pods' cgroups")

    def _enter(self) -> list[str]:
        return ["nsenter", f"--target={self._holder().pid}", "--net", "--pid", "--mount", "--"]

    def _holder(self) -> Process:
        return self._outside.get(_HOLDER)

    def _mount(self) -> None:
        """Give the inside its own /run, /var/lib and /var/log, where some programs insist on writing."""
        self.run("mount", "--make-rshared", "/")
        self.run("mount", "-t", "tmpfs", "-o", "mode=755", "tmpfs", "/run")
        for place in ("/var/lib", "/var/log"):
            layer = self.folder / "layers" / place.replace("/", "_")
            (layer / "upper").mkdir(parents=True, exist_ok=True)
            (layer / "work").mkdir(parents=True, exist_ok=True)
            options = f"lowerdir={place},upperdir={layer / 'upper'},workdir={layer / 'work'}"
            self.run("mount", "-t", "overlay", "-o", options, "overlay", place)

    def _connect(self, holder: Process) -> None:
        run(["ip", "link", "add", _LINK, "type", "veth", "peer", "name", "eth0", "netns", str(holder.pid)])
        run(["ip", "address", "add", f"{HOST_ADDRESS}/30", "dev", _LINK])
        run(["ip", "link", "set", _LINK, "up"])
        self.run("ip", "link", "set", "lo", "up")
        self.run("ip", "address", "add", f"{NODE_ADDRESS}/30", "dev", "eth0")
        self.run("ip", "link", "set", "eth0", "up")
        self.run("sysctl", "-q", "-w", "net.ipv4.ip_forward=1")
        # Services are translated after routing, so that there must be a route, whichever it is.
        self.run("ip", "route", "add", SERVICE_RANGE, "dev", "eth0")
        for pods_or_services in (POD_RANGE, SERVICE_RANGE):
            run(["ip", "route", "add", pods_or_services, "via", NODE_ADDRESS, "dev", _LINK])


def _hierarchies() -> list[Path]:
    """Return the cgroup hierarchies: one on cgroup v2, one per controller on v1."""
    if (_CGROUPS / "cgroup.controllers").exists():
        return [_CGROUPS]
    return [path for path in _CGROUPS.iterdir() if (path / "cgroup.procs").exists()]


def _make_cgroup() -> None:
    """Make the kubelet's root cgroup; a v1 cpuset starts without processors and takes its parent's."""
    for hierarchy in _hierarchies():
        group = hierarchy / CGROUP
        group.mkdir(exist_ok=True)
        for name in ("cpuset.cpus", "cpuset.mems"):
            if hierarchy != _CGROUPS and (group / name).exists():
                (group / name).write_text((hierarchy / name).read_text())
        for name, value in _WEIGHTS.items():
            if (group / name).exists():
                (group / name).write_text(str(value))


def _remove_cgroup() -> bool:
    """Remove the cgroups, leaves first; False while one still has a dying process in it."""
    for hierarchy in _hierarchies():
        for folder, _, _ in os.walk(hierarchy / CGROUP, topdown=False):
            try:
                Path(folder).rmdir()
            except OSError:
                return False
    return True
