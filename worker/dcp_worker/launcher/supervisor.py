"""The ranks of one pod: started, watched by their pipes, ends and heartbeats, and stopped when one has failed."""

import os
import signal
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from math import inf
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Final

from dcp_contract.progress import Progress
from dcp_contract.reasons import Reason
from dcp_contract.report import RankFailure, Report
from dcp_contract.task import Task
from dcp_worker.heartbeat import Slot
from dcp_worker.launcher import pod_report, stalls
from dcp_worker.launcher.rank_processes import RankProcesses
from dcp_worker.rank.process import LAUNCHER_ENV
from dcp_worker.rank.result import Outcome
from dcp_worker.rank_context import Place

TICK_SECONDS: Final = 0.2
ECHO_SECONDS: Final = 5.0
"""After the first failure the other ranks get this long to fail by themselves and say why."""
STOP_SECONDS: Final = 15.0
"""Between SIGTERM and SIGKILL of a rank: less than a pod's grace period, so that the Report is still written."""
REAP_SECONDS: Final = 5.0
"""For an ended rank to leave; one in an uninterruptible read of a dead file system never does."""
_MEMORY_EVENTS: Final = (Path("/sys/fs/cgroup/memory.events"), Path("/sys/fs/cgroup/memory/memory.oom_control"))


class StopAsked(Exception):
    """The launcher was told to stop while it started its ranks."""


class TooLate(Exception):
    """The attempt's time was over before its ranks had started."""


@dataclass
class Orders:
    """What the launcher was told by signals."""

    stop: bool = False
    interruptible: bool = False
    """Whether a signal breaks off what the launcher does, instead of waiting to be looked at."""

    def on_signal(self, number: int, frame: object) -> None:
        """Take SIGTERM or SIGINT."""
        del number, frame
        self.stop = True
        if self.interruptible:
            raise StopAsked

    def check(self) -> None:
        """Raise StopAsked if the launcher was told to stop."""
        if self.stop:
            raise StopAsked


@dataclass(frozen=True)
class PodContext:
    """Where a pod of an attempt runs: which node it is, where rank 0 listens, what its ranks inherit."""

    node: int
    master_addr: str
    master_port: int
    progress_seconds: float
    environment: Mapping[str, str] = field(repr=False)


@dataclass
class _Member:
    """A rank of this pod, as its launcher knows it."""

    rank: int
    slot: Slot
    process: BaseProcess
    results: Connection | None
    """None once it is at its end; a rank's own children may hold it open beyond that."""
    outcome: Outcome | None = None
    failure: RankFailure | None = None
    """What the launcher itself saw: a signal, a hang."""

    @property
    def ended(self) -> bool:
        return self.outcome is not None or self.failure is not None

    @property
    def failed(self) -> bool:
        return self.failure is not None or (self.outcome is not None and bool(self.outcome.failures))

    def sources(self) -> Iterator[Connection | int]:
        """Yield what becomes ready when there is news of this rank."""
        if self.results is not None:
            yield self.results
        yield self.process.sentinel

    def sight(self, now: float) -> stalls.Sight:
        return stalls.look(self.slot, self.rank, now)


@dataclass
class Supervisor:
    """Starts, watches and stops the ranks of one node of a Task.

    Args:
        task: What the ranks do.
        pod: which pod of the attempt this is.
        orders: What the launcher is told meanwhile.
        deadline: When the attempt has to be over, in `time.monotonic()`.
        processes: How the ranks' processes are made.
    """

    task: Task
    pod: PodContext
    orders: Orders
    deadline: float
    processes: RankProcesses = field(default_factory=RankProcesses)
    stuck: bool = field(default=False, init=False)
    """Whether a rank could not be ended: then this process must not wait for it either."""
    _members: list[_Member] = field(default_factory=list, init=False)
    _shown: Progress | None = field(default=None, init=False)
    _show_at: float = field(default=-inf, init=False)
    _stop_at: float = field(default=inf, init=False)
    _kill_at: float = field(default=inf, init=False)
    _oom_kills: int = field(default=0, init=False)

    def run(self) -> Report:
        """Run the ranks to their end; return the Report of this node."""
        self._oom_kills = oom_kills()
        try:
            with _alarm(self.deadline):
                self._start()
            self._watch()
        except BaseException:
            self._signal(signal.SIGKILL)
            raise
        finally:
            self._reap()
        outcomes = [member.outcome for member in self._members if member.outcome is not None]
        seen = [member.failure for member in self._members if member.failure is not None]
        return pod_report.report(self.pod.node, len(self._members), outcomes, seen)

    def _start(self) -> None:
        """Fork the ranks from a server that has torch loaded; the first one waits until it has."""
        context = self.processes.context(trains=self.task.operation.traits.needs_workload)
        os.environ[LAUNCHER_ENV] = str(os.getpid())
        slots = context.RawArray(Slot, self.task.workers.num_proc_per_node)
        task_json = self.task.to_json()
        self._print(Progress(stage="loading torch", time=time.time()))
        for local_rank, slot in enumerate(slots):
            slot.stage = b"loading torch"
            place = self._place(local_rank)
            receiver, sender = context.Pipe(duplex=False)
            arguments = (task_json, place, slots, sender, dict(self.pod.environment))
            process = context.Process(target=self.processes.run, args=arguments)
            self._fork(process)
            slot.alive = slot.moved = time.monotonic()
            sender.close()
            self._members.append(_Member(place.rank, slot, process, receiver))

    def _fork(self, process: BaseProcess) -> None:
        self.orders.interruptible = True
        try:
            self.orders.check()
            process.start()
        except (StopAsked, TooLate):
            if process.pid is not None:
                process.kill()
            raise
        except (EOFError, OSError) as error:
            raise TorchNotLoaded from error
        finally:
            self.orders.interruptible = False

    def _place(self, local_rank: int) -> Place:
        workers = self.task.workers
        return Place(
            rank=self.pod.node * workers.num_proc_per_node + local_rank,
            local_rank=local_rank,
            world_size=workers.world_size,
            local_world_size=workers.num_proc_per_node,
            node=self.pod.node,
            master_addr=self.pod.master_addr,
            master_port=self.pod.master_port,
        )

    def _watch(self) -> None:
        """Wait until every rank has ended; after a failure, a stop or the deadline the rest is not waited for long."""
        while live := [member for member in self._members if not member.ended]:
            self._collect(live)
            now = time.monotonic()
            if self._stop_at == inf:
                self._judge([member for member in live if not member.ended], now)
            if self._kill_at == inf and (self.orders.stop or now >= self._stop_at):
                self._signal(signal.SIGTERM)
                self._kill_at = now + STOP_SECONDS
            if now >= self._kill_at:
                self._signal(signal.SIGKILL)
            self._show_progress()

    def _collect(self, live: Sequence[_Member]) -> None:
        """Take the Outcomes that have arrived, and note ranks that ended without one."""
        ready = wait([source for member in live for source in member.sources()], TICK_SECONDS)
        for member in live:
            if member.results is not None and member.results in ready:
                try:
                    member.outcome = member.results.recv()
                except (EOFError, OSError):
                    member.results = None
            elif member.process.sentinel in ready:
                member.process.join()
                member.failure = self._ended_without(member)

    def _ended_without(self, member: _Member) -> RankFailure:
        """Say why a rank ended that did not say so itself."""
        code = member.process.exitcode or 0
        sight = member.sight(time.monotonic())
        if time.monotonic() >= self._kill_at:
            text = f"did not stop within {STOP_SECONDS:.0f} s of SIGTERM, and was killed"
            return _failure(member.rank, Reason.WORKER_LOST, text, sight.stage, code)
        if code not in {0, -signal.SIGTERM} and oom_kills() > self._oom_kills:
            return _failure(member.rank, Reason.OUT_OF_MEMORY, "killed at the memory limit", sight.stage, code)
        name = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        reason = Reason.WORKER_LOST if self.orders.stop or self._kill_at < inf else Reason.RANK_FAILED
        return _failure(member.rank, reason, f"ended by {name} without saying why", sight.stage, code)

    def _judge(self, live: Sequence[_Member], now: float) -> None:
        """Find out whether the attempt has to end, and who is to blame for it."""
        sights = [member.sight(now) for member in live]
        if any(member.failed for member in self._members):
            self._stop_at = now + ECHO_SECONDS
            if any(member.outcome is not None and _timed_out(member.outcome) for member in self._members):
                self._blame(stalls.culprits(sights, stalls.STILL_SECONDS))
        elif live and not self.orders.stop and now >= self.deadline:
            self._stop_at = now
            self._end_late(sights)
        elif not self.orders.stop:
            self._blame(stalls.hung(sights, self.task.hang_seconds))

    def _blame(self, sights: Sequence[stalls.Sight]) -> None:
        """Name hung ranks, and kill them: a stopped process takes no other signal."""
        for sight in sights:
            self._end(sight, Reason.RANK_HUNG, stalls.describe(sight))

    def _end_late(self, sights: Sequence[stalls.Sight]) -> None:
        """Name who holds the attempt up now that its time is over: a rank that hangs, or the slowest."""
        limit = self.task.active_seconds
        guilty = stalls.culprits(sights, min(self.task.hang_seconds, limit / 2))
        if guilty:
            self._blame(guilty)
        else:
            slowest = max(sights, key=lambda sight: sight.still)
            self._end(slowest, Reason.DEADLINE_EXCEEDED, f"still at work after activeSeconds ({limit} s)")

    def _end(self, sight: stalls.Sight, reason: Reason, text: str) -> None:
        member = next(each for each in self._members if each.rank == sight.rank)
        member.failure = _failure(sight.rank, reason, text, sight.stage)
        member.process.kill()

    def _signal(self, number: signal.Signals) -> None:
        for member in self._members:
            if member.process.is_alive():
                if number is signal.SIGKILL:
                    member.process.kill()
                elif not member.ended:
                    member.process.terminate()

    def _reap(self) -> None:
        """Wait for ended ranks to leave, and kill what does not."""
        end = time.monotonic() + REAP_SECONDS
        for member in self._members:
            member.process.join(max(0.0, end - time.monotonic()))
        self._signal(signal.SIGKILL)
        for member in self._members:
            member.process.join(TICK_SECONDS)
        self.stuck = any(member.process.is_alive() for member in self._members)

    def _show_progress(self) -> None:
        """Print where the ranks stand, for the operator to read in the log of node 0."""
        now = time.monotonic()
        if now < self._show_at:
            return
        sights = [member.sight(now) for member in self._members]
        self._print(stalls.progress(sights, self._shown, time.time()))

    def _print(self, progress: Progress) -> None:
        before, self._shown = self._shown, progress
        self._show_at = time.monotonic() + self.pod.progress_seconds
        changed = before is None or (before.stage, before.bytes) != (progress.stage, progress.bytes)
        if changed and self.pod.node == 0:
            print(progress.to_line(), flush=True)  # noqa: T201 - the protocol


class TorchNotLoaded(Exception):
    """The process that loads torch and forks the ranks ended; what it printed says why."""

    def __init__(self) -> None:
        super().__init__("the process that loads torch ended; the log of this pod says why")


@contextmanager
def _alarm(deadline: float) -> Iterator[None]:
    """Raise TooLate in the block at a `time.monotonic()`: forking waits for torch with no timeout of its own."""

    def ring(number: int, frame: object) -> None:
        del number, frame
        raise TooLate

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, max(0.001, deadline - time.monotonic()))
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def oom_kills() -> int:
    """Return how many processes of this container the kernel has killed for memory; 0 where it does not say."""
    for path in _MEMORY_EVENTS:
        try:
            lines = path.read_text(encoding="ascii").split("\n")
        except OSError:
            continue
        return next((int(line.split()[1]) for line in lines if line.startswith("oom_kill ")), 0)
    return 0


def _timed_out(outcome: Outcome) -> bool:
    """Return whether a rank gave up waiting for another one: who it waited for is still there to be named."""
    return any(failure.reason is Reason.RANK_HUNG for failure in outcome.failures)


def _failure(rank: int, reason: Reason, message: str, stage: str, code: int | None = None) -> RankFailure:
    return RankFailure(rank=rank, reason=reason, message=message, stage=stage, time=time.time(), exit_code=code)
