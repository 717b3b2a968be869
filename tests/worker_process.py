"""`python -m dcp_worker` as a pod runs it: its environment, its Report, its log, and all the processes it made."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from multiprocessing import forkserver
from pathlib import Path
from typing import Any

import forked_pods
from dcp_contract.checkpoint_info import Provenance
from dcp_contract.environment import MASTER_PORT_ENV, NODE_RANK_ENV, PROGRESS_SECONDS_ENV, TASK_ENV, TERMINATION_LOG_ENV
from dcp_contract.operations import Operation
from dcp_contract.report import Report
from dcp_contract.save_fields import IfSaved, SaveFields
from dcp_contract.sections import Storage, Workers, Workload
from dcp_contract.task import Task
from free_ports import free_port

HERE = Path(__file__).resolve().parent
DEADLINE = 90.0
"""Seconds after which a test gives up waiting; nothing waits that long unless something is wrong."""


def until(condition: Callable[[], bool], seconds: float = DEADLINE) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "the condition did not come true in time"
        time.sleep(0.02)


def alive(pid: int) -> bool:
    """Return whether a process runs; one that nobody has waited for yet does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def task(
    url: Path | str,
    workload: str = "Fine",
    args: dict[str, Any] | None = None,
    *,
    ranks: int = 1,
    nodes: int = 1,
    steps: int = 1,
    operation: Operation = Operation.SAVE,
    uid: str = "uid-1",
    overwrite: bool = False,
    options: dict[str, Any] | None = None,
    **fields: Any,
) -> Task:
    """Return a Task for one of the workloads of `failing_workloads`, on CPUs."""
    where = str(url) if "://" in str(url) else f"file://{url}"
    entrypoint = workload if ":" in workload else f"failing_workloads:{workload}"
    return Task(
        operation=operation,
        origin=Provenance(namespace="team", name="one", uid=uid),
        save=SaveFields(if_exists=IfSaved.REPLACE if overwrite else IfSaved.FAIL, steps=steps),
        storage=Storage(url=where, options=options or {}),
        workload=Workload(entrypoint=entrypoint, args=args or {}),
        workers=Workers.model_validate({"numNodes": nodes, "numProcPerNode": ranks, "device": "cpu"}),
        **{"active_seconds": 120, **fields},
    )


@dataclass
class Pod:
    """A launcher that was started, and what it leaves."""

    process: "subprocess.Popen[bytes] | forked_pods.Forked"
    folder: Path

    @property
    def log(self) -> str:
        return (self.folder / "log").read_text(errors="replace")

    @property
    def written(self) -> bytes:
        return (self.folder / "report").read_bytes()

    @property
    def report(self) -> Report:
        """The Report; waits for the end of the launcher."""
        self.wait()
        report = Report.decode(self.written.decode())
        assert report is not None, self.log
        return report

    def wait(self) -> int:
        return self.process.wait(DEADLINE)

    def rank(self, rank: int = 0) -> int:
        """Return the pid that a rank's workload said; waits for it."""
        path = self.folder / f"rank-{rank}"
        until(lambda: path.exists() or self.process.poll() is not None)
        assert path.exists(), self.log
        return int(path.read_text())

    def send(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def go(self) -> None:
        """Let a workload that waits go on."""
        (self.folder / "go").touch()

    def processes(self) -> list[int]:
        """Return the live processes of this launcher's session, itself included."""
        found = []
        for stat in Path("/proc").glob("[0-9]*/stat"):
            try:
                state, _, _, session = stat.read_text().rpartition(")")[2].split()[:4]
            except (FileNotFoundError, ProcessLookupError):
                continue
            if int(session) == self.process.pid and state != "Z":
                found.append(int(stat.parent.name))
        return found


@contextmanager
def started(work: Task | str, folder: Path, **environment: str) -> Iterator[Pod]:
    """Start a launcher in a session of its own, forked from who has torch; whatever it left is killed at the end."""
    with _started(forked_pods.Forked, work, folder, environment) as pod:
        yield pod


@contextmanager
def started_anew(work: Task | str, folder: Path, **environment: str) -> Iterator[Pod]:
    """Start `python -m dcp_worker` as a pod does: it has torch loaded for its ranks."""
    with _started(_anew, work, folder, environment) as pod:
        yield pod


@contextmanager
def started_bare(work: Task, folder: Path) -> Iterator[Pod]:
    """Start a launcher whose ranks load no torch and do what `bare_ranks` says."""
    assert work.workload is not None
    workload = work.workload.model_copy(update={"args": {**work.workload.args, "folder": str(folder)}})
    work = work.model_copy(update={"workload": workload})
    with _started(partial(_anew, program=[str(HERE / "bare_ranks.py")]), work, folder, {}) as pod:
        yield pod


@contextmanager
def _started(
    start: "Callable[[dict[str, str], Path], subprocess.Popen[bytes] | forked_pods.Forked]",
    work: Task | str,
    folder: Path,
    environment: dict[str, str],
) -> Iterator[Pod]:
    folder.mkdir(exist_ok=True)
    pod = Pod(start(_given(work, folder, environment), folder / "log"), folder)
    try:
        yield pod
    finally:
        for pid in pod.processes():
            os.kill(pid, signal.SIGKILL)
        pod.process.wait(10)


def _given(work: Task | str, folder: Path, environment: Mapping[str, str]) -> dict[str, str]:
    """Return the environment of a pod's container."""
    return {
        **os.environ,
        TASK_ENV: work if isinstance(work, str) else work.to_json(),
        TERMINATION_LOG_ENV: str(folder / "report"),
        PROGRESS_SECONDS_ENV: "0.2",
        MASTER_PORT_ENV: str(free_port()),
        "PYTHONPATH": os.pathsep.join(filter(None, [str(HERE), os.environ.get("PYTHONPATH")])),
        "GLOO_SOCKET_IFNAME": "lo",
        **environment,
    }


def _anew(
    environment: dict[str, str], log: Path, program: Sequence[str] = ("-m", "dcp_worker")
) -> "subprocess.Popen[bytes]":
    with log.open("wb") as file:
        return subprocess.Popen(
            [sys.executable, *program],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def ran(work: Task | str, folder: Path, **environment: str) -> Report:
    """Run a launcher to its end and return its Report."""
    with started(work, folder, **environment) as pod:
        return pod.report


def ran_anew(work: Task | str, folder: Path, **environment: str) -> Report:
    """Run `python -m dcp_worker` to its end and return its Report."""
    with started_anew(work, folder, **environment) as pod:
        return pod.report


def ran_bare(work: Task, folder: Path) -> Report:
    """Run a launcher whose ranks load no torch to its end and return its Report."""
    with started_bare(work, folder) as pod:
        return pod.report


def ran_here(work: Task, folder: Path, **environment: str) -> Report:
    """Run a launcher in this process to its end and return its Report.

    Its ranks are forked from who has torch. A forked launcher forks them by itself, and can't once it has asked
    an object store.
    """
    from dcp_worker.launcher import main

    folder.mkdir(exist_ok=True)
    forkserver.ensure_running()
    variables = dict(os.environ)
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        main.main(_given(work, folder, environment))
    finally:
        os.environ.clear()
        os.environ.update(variables)
        for number, handler in handlers.items():
            signal.signal(number, handler)
    report = Report.decode((folder / "report").read_text())
    assert report is not None
    return report


@contextmanager
def nodes(work: Task, folder: Path) -> Iterator[list[Pod]]:
    """Start one launcher per node, which find one another."""
    folder.mkdir(exist_ok=True)
    port = str(free_port())
    with ExitStack() as stack:
        yield [
            stack.enter_context(
                started(work, folder / f"node-{node}", **{NODE_RANK_ENV: str(node), MASTER_PORT_ENV: port})
            )
            for node in range(work.workers.num_nodes)
        ]
