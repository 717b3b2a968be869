"""One pod of an attempt: a look at the store, then the ranks, then one Report.

This process imports no torch. It starts a forkserver that does, once, and forks the ranks from it; it watches their
pipes, their ends and their heartbeats, and stops the rest when one has failed. See `docs/decisions` for why this is not
torch elastic.
"""

import contextlib
import json
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from pathlib import Path
from types import FrameType
from typing import Any, Final

from dcp_worker import watch
from dcp_worker.contract import (
    MASTER_ADDR_ENV,
    MASTER_PORT_ENV,
    MAX_FAILED_RANKS,
    NODE_RANK_ENV,
    PROGRESS_KEY,
    PROGRESS_SECONDS_ENV,
    TASK_ENV,
    TERMINATION_LOG_ENV,
    CheckpointInfo,
    Operation,
    Progress,
    RankFailure,
    Reason,
    Report,
    Task,
)
from dcp_worker.member import Outcome, Place, enter
from dcp_worker.pulse import Slot

TICK_SECONDS: Final = 0.2
ECHO_SECONDS: Final = 10.0
"""After the first failure the other ranks get this long to fail by themselves and say why."""
STOP_SECONDS: Final = 15.0
"""Between SIGTERM and SIGKILL of a rank: less than a pod's grace period, so that the Report is still written."""
JOB_INDEX_ENV: Final = "JOB_COMPLETION_INDEX"
DEFAULT_PORT: Final = 29400
_MEMORY_EVENTS: Final = ("/sys/fs/cgroup/memory.events", "/sys/fs/cgroup/memory/memory.oom_control")


def main(environment: Mapping[str, str] | None = None) -> int:
    """Run this pod's part of the Task in the environment, write the Report, and return the exit code."""
    given = os.environ if environment is None else environment
    log = Path(given.get(TERMINATION_LOG_ENV, "/dev/termination-log"))
    node = int(given.get(NODE_RANK_ENV) or given.get(JOB_INDEX_ENV) or 0)
    try:
        task = Task.model_validate_json(given.get(TASK_ENV, ""))
    except ValueError as error:
        failure = RankFailure(reason=Reason.INVALID_SPEC, message=f"{TASK_ENV}: {error}", time=time.time())
        report = Report(node=node, failures=[failure])
    else:
        report = Launcher(task, node, given).run()
    _write(log, report)
    _say(report)
    return 0 if report.result is not None else 1


@dataclass
class _Member:
    """A rank of this pod, as its launcher knows it."""

    rank: int
    process: Any
    results: Connection
    outcome: Outcome | None = None
    failure: RankFailure | None = None
    """What the launcher itself saw: a signal, a hang."""

    @property
    def ended(self) -> bool:
        return self.outcome is not None or self.failure is not None


@dataclass
class Launcher:
    """Runs the ranks of one node of a Task."""

    task: Task
    node: int
    environment: Mapping[str, str] = field(repr=False)
    warnings: list[str] = field(default_factory=list, init=False)
    _terminated: bool = field(default=False, init=False)
    _members: list[_Member] = field(default_factory=list, init=False)
    _slots: Any = field(default=None, init=False)
    _shown: Progress | None = field(default=None, init=False)
    _stopping: bool = field(default=False, init=False)
    _oom_kills: int = field(default_factory=lambda: _oom_kills(), init=False)
    _started: float = field(default_factory=time.monotonic, init=False)

    def run(self) -> Report:
        """Return the Report of this node; never raises."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._on_signal)
        try:
            if self.node == 0:
                known = self._preflight()
                if known is not None or self.task.probe:
                    return Report(node=0, result=Reason.SAVED if known else None, checkpoint=known)
            self._start()
            self._watch()
        except Exception as error:  # noqa: BLE001 - whatever it is, it belongs into the Report
            self._kill()
            return self._rejected(error)
        return self._report()

    def _preflight(self) -> CheckpointInfo | None:
        """Look at the store before torch is loaded; return this very run's earlier commit, if there is one."""
        from dcp_worker.engine import find, preflight  # noqa: PLC0415 - loads the store's libraries

        task, storage = self.task, self.task.storage
        if task.probe:
            found = find(storage.url, storage_options=storage.options)
            return found if found is not None and found.origin == task.origin else None
        if task.workload is not None and task.workload.from_ is not None:
            preflight(Operation.LOAD, task.workload.from_.url, storage_options=storage.options)
        info = preflight(
            task.operation,
            storage.url,
            overwrite=storage.overwrite,
            storage_options=storage.options,
            origin=task.origin,
        )
        return info if task.operation is Operation.SAVE else None

    def _rejected(self, error: Exception) -> Report:
        from dcp_worker.engine.errors import translate  # noqa: PLC0415

        known = translate(error, url=self.task.storage.url)
        failure = RankFailure(reason=known.reason, message=known.message, stage="preflight", time=known.time)
        return Report(node=self.node, failures=[failure], conflict=known.conflict, terminated=self._terminated)

    def _start(self) -> None:
        """Fork the ranks from a server that has torch loaded."""
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["dcp_worker.rank"])
        local, now = self.task.workers.num_proc_per_node, time.monotonic()
        self._slots = context.RawArray(Slot, local)
        for local_rank, slot in enumerate(self._slots):
            slot.stage, slot.alive, slot.moved = b"loading torch", now, now
            place = self._place(local_rank)
            receiver, sender = context.Pipe(duplex=False)
            process = context.Process(
                target=enter, args=(self.task.to_json(), place, self._slots, sender, dict(self.environment))
            )
            process.start()
            sender.close()
            self._members.append(_Member(place.rank, process, receiver))

    def _place(self, local_rank: int) -> Place:
        workers = self.task.workers
        return Place(
            rank=self.node * workers.num_proc_per_node + local_rank,
            local_rank=local_rank,
            world_size=workers.world_size,
            local_world_size=workers.num_proc_per_node,
            node=self.node,
            master_addr=self.environment.get(MASTER_ADDR_ENV, "127.0.0.1"),
            master_port=int(self.environment.get(MASTER_PORT_ENV) or DEFAULT_PORT),
        )

    def _watch(self) -> None:
        """Wait until every rank has ended; after a failure, a stop or the deadline the rest is not waited for long."""
        deadline = self._started + self.task.active_seconds
        stop_at: float | None = None
        kill_at: float | None = None
        while live := [member for member in self._members if not member.ended]:
            self._collect(live)
            now = time.monotonic()
            if self._failed and stop_at is None:
                stop_at = now + ECHO_SECONDS
            if stop_at is None and now >= deadline:
                self._blame_for_deadline(live, now)
            elif stop_at is None:
                self._blame(watch.hung(self._sights(live, now), self.task.hang_seconds))
            if kill_at is None and (self._terminated or (stop_at is not None and now >= stop_at)):
                self._signal(signal.SIGTERM)
                kill_at = now + STOP_SECONDS
            if kill_at is not None and now >= kill_at:
                self._kill()
            self._show_progress()
        for member in self._members:
            member.process.join()

    @property
    def _failed(self) -> bool:
        return any(
            member.failure is not None or (member.outcome is not None and member.outcome.failures)
            for member in self._members
        )

    def _collect(self, live: Sequence[_Member]) -> None:
        """Take the Outcomes that have arrived, and note ranks that ended without one."""
        for ready in wait([member.results for member in live], TICK_SECONDS):
            member = next(each for each in live if each.results is ready)
            try:
                member.outcome = member.results.recv()
            except (EOFError, OSError):
                member.process.join()
                member.failure = self._ended_without(member)

    def _ended_without(self, member: _Member) -> RankFailure:
        code = member.process.exitcode
        stage = self._sight(member, time.monotonic()).stage
        killed = code == -signal.SIGKILL
        if killed and _oom_kills() > self._oom_kills:
            return _failure(member.rank, Reason.OUT_OF_MEMORY, "killed by the kernel at the memory limit", stage, code)
        name = signal.Signals(-code).name if code is not None and code < 0 else f"exit code {code}"
        reason = Reason.WORKER_LOST if self._stopping else Reason.RANK_FAILED
        return _failure(member.rank, reason, f"ended by {name} without saying why", stage, code)

    def _blame(self, sights: Sequence[watch.Sight]) -> None:
        """Name hung ranks, and kill them: a stopped process takes no other signal."""
        for sight in sights:
            member = next(each for each in self._members if each.rank == sight.rank)
            member.failure = _failure(sight.rank, Reason.RANK_HUNG, watch.describe(sight), sight.stage)
            member.process.kill()

    def _blame_for_deadline(self, live: Sequence[_Member], now: float) -> None:
        """End an attempt whose time is up, and name who held it up, if anyone did."""
        sights = self._sights(live, now)
        limit = self.task.active_seconds
        guilty = watch.culprits(sights, min(self.task.hang_seconds, limit / 2))
        if guilty:
            self._blame(guilty)
            return
        slowest = max(sights, key=lambda sight: sight.still)
        member = next(each for each in self._members if each.rank == slowest.rank)
        text = f"still at work after activeSeconds ({limit} s)"
        member.failure = _failure(slowest.rank, Reason.DEADLINE_EXCEEDED, text, slowest.stage)
        member.process.kill()

    def _sights(self, members: Sequence[_Member], now: float) -> list[watch.Sight]:
        return [self._sight(member, now) for member in members]

    def _sight(self, member: _Member, now: float) -> watch.Sight:
        return watch.look(self._slots[member.rank - self._members[0].rank], member.rank, now)

    def _show_progress(self) -> None:
        """Print where the ranks stand, for the operator to read in the log of node 0."""
        now = time.time()
        every = float(self.environment.get(PROGRESS_SECONDS_ENV) or 5)
        if self.node or (self._shown is not None and now - self._shown.time < every):
            return
        shown = watch.progress(self._sights(self._members, time.monotonic()), self._shown, now)
        if self._shown is None or (shown.stage, shown.bytes) != (self._shown.stage, self._shown.bytes):
            print(json.dumps({PROGRESS_KEY: shown.to_dict()}), flush=True)  # noqa: T201 - the protocol
        self._shown = shown

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        del number, frame
        self._terminated = self._stopping = True

    def _signal(self, number: signal.Signals) -> None:
        self._stopping = True
        for member in self._members:
            if not member.ended and member.process.pid is not None:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(member.process.pid, number)

    def _kill(self) -> None:
        self._signal(signal.SIGKILL)

    def _report(self) -> Report:
        outcomes = [member.outcome for member in self._members if member.outcome is not None]
        failures = _merged(
            [
                *(member.failure for member in self._members if member.failure is not None),
                *(failure for outcome in outcomes for failure in outcome.failures),
            ]
        )
        succeeded = not failures and len(outcomes) == len(self._members)
        # What rank 0 says it committed is committed, whatever happened to a rank since.
        chief = next((each for each in outcomes if each.rank == 0 and each.result is not None), None)
        committed = chief is not None and chief.result is Reason.SAVED
        first = chief or next(iter(outcomes), None)
        return Report(
            node=self.node,
            result=first.result if first is not None and (succeeded or committed) else None,
            checkpoint=chief.checkpoint if chief is not None and (succeeded or committed) else None,
            conflict=next((each.conflict for each in outcomes if each.conflict is not None), None),
            failures=failures[:MAX_FAILED_RANKS],
            failed_rank_count=len(failures),
            warnings=self.warnings,
            bytes_moved=sum(each.bytes_moved for each in outcomes),
            seconds=max((each.seconds for each in outcomes), default=0.0),
            terminated=self._terminated,
        )


def _merged(failures: Sequence[RankFailure]) -> list[RankFailure]:
    """Return one failure per rank, the first in time, in the order of time."""
    first: dict[int | None, RankFailure] = {}
    for failure in sorted(failures, key=lambda each: each.time):
        first.setdefault(failure.rank, failure)
    return list(first.values())


def _failure(rank: int, reason: Reason, message: str, stage: str, code: int | None = None) -> RankFailure:
    return RankFailure(rank=rank, reason=reason, message=message, stage=stage, time=time.time(), exit_code=code)


def _oom_kills() -> int:
    """Return how many processes of this container the kernel has killed for memory; 0 where it does not say."""
    for name in _MEMORY_EVENTS:
        try:
            lines = Path(name).read_text(encoding="ascii").split("\n")
        except OSError:
            continue
        return next((int(line.split()[1]) for line in lines if line.startswith("oom_kill ")), 0)
    return 0


def _write(log: Path, report: Report) -> None:
    """Write the Report in one go, in place: the kubelet has mounted the file."""
    try:
        log.write_text(report.encode(), encoding="utf-8")
    except OSError as error:
        print(f"can't write the Report to {log}: {error}", file=sys.stderr)  # noqa: T201


def _say(report: Report) -> None:
    """Print what went wrong, for whoever reads the pod's log."""
    for failure in report.failures:
        who = "launcher" if failure.rank is None else f"rank {failure.rank}"
        print(f"{who}: {failure.reason} ({failure.stage}): {failure.message}", file=sys.stderr)  # noqa: T201
        if failure.traceback:
            print(failure.traceback, file=sys.stderr)  # noqa: T201
