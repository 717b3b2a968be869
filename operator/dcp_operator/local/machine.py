"""This machine as a cluster of one: attempts become processes instead of Jobs, and are observed in the same terms."""

import socket
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from dcp_contract.environment import MASTER_ADDR_ENV, MASTER_PORT_ENV, NODE_RANK_ENV, PROGRESS_SECONDS_ENV, TASK_ENV
from dcp_operator.controllers.checkpoint.actions import Action, CreateAttempt
from dcp_operator.controllers.checkpoint.observed import Attempt, Observed, Pod
from dcp_operator.local.processes import Process

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
        self.changed()

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
                now=now,
                changed=self.changed,
                output=self.output,
            )
            for node in range(action.task.workers.num_nodes)
        ]
        return _Attempt(action, now(), processes)


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


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind((LOOPBACK, 0))
        return int(listener.getsockname()[1])


def now() -> datetime:
    """Return the time, as everything here tells it."""
    return datetime.now(UTC)
