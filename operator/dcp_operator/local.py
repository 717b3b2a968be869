"""`dcp run`: this machine as a cluster of one.

Attempts become processes instead of Jobs; what they do is observed in the same terms, and from there on everything is
the operator's own code: the same decisions, the same retries, the same status.
"""

import os
import queue
import signal
import socket
import sys
import tempfile
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType
from typing import Any, Final

from dcp_operator.actions import Action, CreateAttempt, Decision
from dcp_operator.decide import decide
from dcp_operator.documents import Documents, Source, credentials
from dcp_operator.observed import Attempt, Observed, Pod
from dcp_operator.processes import Process
from dcp_operator.spec import LOCAL, Checkpoint, parse
from dcp_operator.status import Phase
from dcp_operator.storage_url import protocol
from dcp_operator.view import View
from dcp_worker.contract import (
    CREDENTIAL_KEYS,
    MASTER_ADDR_ENV,
    MASTER_PORT_ENV,
    NODE_RANK_ENV,
    PROGRESS_SECONDS_ENV,
    TASK_ENV,
    Reason,
)

LOOPBACK: Final = "127.0.0.1"


@dataclass
class _Attempt:
    """What stands for a Job here."""

    action: CreateAttempt
    created: datetime
    processes: list[Process]
    deleting: bool = False

    @property
    def live(self) -> bool:
        return any(process.finished is None for process in self.processes)


@dataclass
class Machine:
    """Carries out a decision's actions with processes, and observes them as pods.

    Args:
        environment: What the processes inherit: credentials, PYTHONPATH.
        folder: Where their Reports go.
        changed: Called from any thread when there is something new to observe.
        output: Called from any thread with node and line of what the ranks print.
    """

    environment: Mapping[str, str] = field(repr=False)
    folder: Path
    changed: Callable[[], None]
    output: Callable[[int, str], None]
    _attempts: dict[str, _Attempt] = field(default_factory=dict, init=False)

    def carry_out(self, action: Action) -> None:
        """Create or delete an attempt; what is done already is success."""
        if isinstance(action, CreateAttempt):
            if action.job_name not in self._attempts:
                self._attempts[action.job_name] = self._start(action)
        elif (attempt := self._attempts.get(action.job_name)) is not None:
            attempt.deleting = True
            for process in attempt.processes:
                process.terminate()

    def observe(self) -> Observed:
        """Return the attempts; a deleted one is gone once it has been seen with all of its processes ended."""
        seen = Observed(attempts=tuple(map(_observed, self._attempts.values())))
        for name, attempt in list(self._attempts.items()):
            if attempt.deleting and not attempt.live:
                del self._attempts[name]
        return seen

    @property
    def live(self) -> bool:
        """Whether any process is left."""
        return any(attempt.live for attempt in self._attempts.values())

    def kill(self) -> None:
        """Kill what runs, at once."""
        for attempt in self._attempts.values():
            for process in attempt.processes:
                process.kill()

    def stop(self) -> None:
        """Ask everything that runs to stop."""
        for attempt in self._attempts.values():
            for process in attempt.processes:
                process.terminate()

    def forget(self) -> None:
        """Take all attempts, which have to be stopped, out of sight: as if their Jobs had been deleted."""
        self._attempts.clear()

    def failed_lines(self) -> Iterator[tuple[int, str]]:
        """Yield node and line of what failed processes printed last, once."""
        for attempt in self._attempts.values():
            for process in attempt.processes:
                if process.exit_code:
                    lines = list(process.lines)
                    process.lines.clear()
                    yield from ((process.node, line) for line in lines)

    def _start(self, action: CreateAttempt) -> _Attempt:
        folder = self.folder / action.job_name
        folder.mkdir()
        environment = {
            **self.environment,
            TASK_ENV: action.task.to_json(),
            MASTER_ADDR_ENV: LOOPBACK,
            MASTER_PORT_ENV: str(_free_port()),
            PROGRESS_SECONDS_ENV: "0.5",
        }
        processes = [
            Process(
                node,
                environment={**environment, NODE_RANK_ENV: str(node)},
                folder=folder,
                now=_now,
                changed=self.changed,
                output=self.output,
            )
            for node in range(action.task.workers.num_nodes)
        ]
        return _Attempt(action, _now(), processes)


def _observed(attempt: _Attempt) -> Attempt:
    action = attempt.action
    ended = [process.finished for process in attempt.processes if process.finished is not None]
    return Attempt(
        job_name=action.job_name,
        attempt=action.attempt,
        created=attempt.created,
        nodes=len(attempt.processes),
        run_id=action.task.origin.run_id,
        probe=action.task.probe,
        deleting=attempt.deleting,
        started=attempt.created,
        finished=max(ended) if len(ended) == len(attempt.processes) else None,
        pods=tuple(_pod(action.job_name, process) for process in attempt.processes),
        progress=attempt.processes[0].progress,
    )


def _pod(job_name: str, process: Process) -> Pod:
    finished, code = process.finished, process.exit_code
    return Pod(
        index=process.node,
        name=f"{job_name}-{process.node}",
        phase="Running" if finished is None else "Failed" if code else "Succeeded",
        started=process.created,
        finished=finished,
        exit_code=code,
        report=process.report,
    )


@dataclass
class _Run:
    """One `dcp run`: what its Checkpoints share."""

    found: Documents
    shown: View
    verbose: bool
    folder: Path
    news: "queue.SimpleQueue[None]" = field(default_factory=queue.SimpleQueue)
    signals: int = 0
    machine: Machine | None = None

    def on_signal(self, number: int, frame: FrameType | None) -> None:
        """Suspend on the first Ctrl-C, kill on the second; runs between two instructions of the main thread."""
        del number, frame
        self.signals += 1
        if self.signals > 1 and self.machine is not None:
            self.machine.kill()
        self.news.put(None)

    def one(self, source: Source) -> dict[str, Any]:
        """Run one Checkpoint to its end; return the object with its status."""
        body = _admitted(source.body)
        checkpoint = parse(body, site=LOCAL).model_copy(update={"queue": ""})
        self.machine = machine = Machine(
            environment=self._environment(source, checkpoint),
            folder=Path(tempfile.mkdtemp(dir=self.folder)),
            changed=lambda: self.news.put(None),
            output=lambda node, line: self._output(checkpoint, node, line),
        )
        try:
            status = self._until_ended(checkpoint, machine)
        finally:
            machine.kill()
        if status["phase"] == Phase.SUSPENDED:
            body["spec"] = {**body["spec"], "suspend": True}
        return {**body, "status": status}

    def _until_ended(self, checkpoint: Checkpoint, machine: Machine) -> dict[str, Any]:
        """Observe, decide and act until nothing is left to do; return the status."""
        status: dict[str, Any] = {}
        while True:
            if self.signals:
                return self._stopped(checkpoint, machine, status)
            observed = machine.observe()
            decision = decide(checkpoint, observed, status, _now())
            status = decision.status
            self._show(checkpoint, machine, observed, decision)
            for action in decision.actions:
                machine.carry_out(action)
            if not decision.actions and not machine.live and _ended(status):
                return status
            self._wait(decision.wake_at)

    def _stopped(self, checkpoint: Checkpoint, machine: Machine, status: Mapping[str, Any]) -> dict[str, Any]:
        """Stop the ranks and suspend the Checkpoint, unless the result is there by now; return the status."""
        machine.stop()
        while machine.live:
            self._wait(None)
        observed = machine.observe()
        decision = decide(checkpoint, observed, status, _now())
        if decision.status["phase"] not in {Phase.SUCCEEDED, Phase.CONFLICT}:
            machine.forget()
            suspended = _suspended(checkpoint)
            decision = decide(suspended, machine.observe(), status, _now())
        self._show(checkpoint, machine, observed, decision)
        return decision.status

    def _wait(self, until: datetime | None) -> None:
        """Wait for news; a burst of it counts as one."""
        try:
            self.news.get(timeout=None if until is None else max(0.0, (until - _now()).total_seconds()))
            while True:
                self.news.get_nowait()
        except queue.Empty:
            pass

    def _show(self, checkpoint: Checkpoint, machine: Machine, observed: Observed, decision: Decision) -> None:
        progress = observed.attempts[-1].progress if observed.attempts else None
        phase = Phase(decision.status["phase"])
        self.shown.show(checkpoint.name, phase, progress, checkpoint.spec.workers.world_size)
        for event in decision.events:
            if event.type == "Warning":
                self.shown.say(f"{checkpoint.name}: {event.reason}: {event.message}")
                if event.reason != Reason.OVERWRITE_CONFLICT and not self.verbose:
                    for node, line in machine.failed_lines():
                        self.shown.say(_line(checkpoint, node, line))

    def _output(self, checkpoint: Checkpoint, node: int, line: str) -> None:
        if self.verbose:
            self.shown.say(_line(checkpoint, node, line))

    def _environment(self, source: Source, checkpoint: Checkpoint) -> dict[str, str]:
        environment = {**os.environ}
        paths = [str(Path.cwd()), str(source.folder), environment.get("PYTHONPATH", "")]
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
        if sys.platform == "linux":
            # Ranks of one machine meet on its loopback interface; its host name need not even resolve.
            environment.setdefault("GLOO_SOCKET_IFNAME", "lo")
        reference = checkpoint.spec.storage.credentials_secret_ref
        secret = credentials(checkpoint, self.found.secrets)
        if secret is not None:
            for key in CREDENTIAL_KEYS[protocol(checkpoint.spec.storage.url)]:
                environment.pop(key, None)
            environment |= secret
        elif reference is not None:
            name = f"Secret {checkpoint.namespace}/{reference.name}"
            self.shown.say(f"{checkpoint.name}: {name} is in none of the files; using the environment's credentials")
        return environment


def run_all(found: Documents, shown: View, *, verbose: bool) -> tuple[list[dict[str, Any]], bool]:
    """Run the Checkpoints in order; return the objects with their status, and whether Ctrl-C stopped them.

    After a Ctrl-C the remaining ones are not started: their status says Suspended as well.
    """
    with tempfile.TemporaryDirectory(prefix="dcp-run-") as folder:
        run = _Run(found, shown, verbose, Path(folder))
        with _handled(run.on_signal):
            finished = [run.one(source) for source in found.checkpoints]
        return finished, run.signals > 0


@contextmanager
def _handled(handler: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    """Have Ctrl-C and SIGTERM call the handler for as long as the block runs."""
    before = {number: signal.signal(number, handler) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, old in before.items():
            signal.signal(number, old)


def _admitted(body: Mapping[str, Any]) -> dict[str, Any]:
    """Return the object as an API server would hand it out: with an identity of its own, and no status yet."""
    metadata = {
        "namespace": "default",
        **body["metadata"],
        "uid": str(uuid.uuid4()),
        "generation": 1,
        "creationTimestamp": _now().isoformat(timespec="seconds"),
    }
    return {**{key: value for key, value in body.items() if key != "status"}, "metadata": metadata}


def _suspended(checkpoint: Checkpoint) -> Checkpoint:
    return checkpoint.model_copy(update={"spec": checkpoint.spec.model_copy(update={"suspend": True})})


def _ended(status: Mapping[str, Any]) -> bool:
    phase = Phase(status["phase"])
    return phase.terminal or phase is Phase.SUSPENDED


def _line(checkpoint: Checkpoint, node: int, line: str) -> str:
    place = f"{checkpoint.name}/{node}" if checkpoint.nodes > 1 else checkpoint.name
    return f"[{place}] {line}"


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind((LOOPBACK, 0))
        return int(listener.getsockname()[1])


def _now() -> datetime:
    return datetime.now(UTC)


def succeeded(body: Mapping[str, Any]) -> bool:
    """Return whether a finished object's operation did what it says."""
    return bool(body["status"]["phase"] == Phase.SUCCEEDED)
