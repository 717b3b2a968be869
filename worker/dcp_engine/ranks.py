"""Collective steps in which every rank raises the same EngineError, and the error names the rank that failed first.

Every method is a collective call: each rank of the group makes it, in the same order. Without an initialised process
group there is one rank and nothing is sent.
"""

import os
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import Any, Final, TypeVar
from weakref import WeakKeyDictionary, WeakSet

import torch
import torch.distributed as dist
from torch.distributed.checkpoint.api import CheckpointException

from dcp_engine import redact, torch_internals, torch_messages
from dcp_engine.errors import EngineError, InvalidOption, PeerHung, PeerLost
from dcp_engine.gc_pause import uncollected
from dcp_engine.translate import translate

_T = TypeVar("_T")
_R = TypeVar("_R")
_TRACEBACK_CHARS: Final = 4000
_PROBE_TAG: Final = 0x6463706F
"""The tag of a message that no rank ever sends."""

PATIENCE_SECONDS: Final = 1800.0
"""How long the ranks wait for the slowest one in a stage, before it counts as hung. The same on all of them."""


class Ranks:
    """The ranks of one save or load. Rank 0 of the group coordinates. Every rank of the group makes one.

    The first `Ranks` of a group and a use makes a gloo group, which is a collective call.

    Args:
        group: The ranks that take part; None for all.
        use: Calls that may go on at the same time (foreground, background) have a gloo group each, by this name.
        patience: Seconds that a rank may lag behind the others before it counts as hung; the same on every rank.
        no_dist: This process is by itself, whatever process groups there are.

    Raises:
        InvalidOption: `patience` is no number of seconds.
        PeerHung: a rank did not come to the making of the gloo group in time.
        PeerLost: a rank died meanwhile.
    """

    def __init__(
        self,
        group: dist.ProcessGroup | None = None,
        *,
        use: str = "",
        patience: float = PATIENCE_SECONDS,
        no_dist: bool = False,
    ) -> None:
        if not isinstance(patience, int | float) or not patience > 0:
            raise InvalidOption(f"patience: {patience!r} is no number of seconds above 0")
        self.alone = no_dist or _without_group()
        self.call = 0 if self.alone else _count(_joined(group), use)
        """Number of this call among those of its group and use. Ranks in one and the same call have equal numbers."""
        # gloo alone can say which rank did not come.
        self.group = None if self.alone else own_group(group, use, patience)
        self.rank = 0 if self.alone else dist.get_rank(self.group)
        self.coordinates = self.rank == 0
        """Whether this is the rank that plans for all and commits."""
        self.world_size = 1 if self.alone else dist.get_world_size(self.group)
        self.patience = patience

    def gather(self, stage: str, local: Callable[[], _T], combine: Callable[[list[_T]], _R]) -> _R:
        """Run `local` on every rank and `combine` on rank 0 over what they return; return its result everywhere."""
        everyone: list[_T | EngineError] | None = self._gather(stage, self._attempt(stage, local))
        result: _R | EngineError | None = None
        if everyone is not None:
            result = self._combine(stage, everyone, combine)
        shared: _R | EngineError = self._broadcast(stage, result)
        return _value(shared)

    def scatter(self, stage: str, local: Callable[[], _T], divide: Callable[[list[_T]], list[_R]]) -> _R:
        """Run `local` on every rank and `divide` on rank 0; return to each rank its own part."""
        everyone: list[_T | EngineError] | None = self._gather(stage, self._attempt(stage, local))
        parts: Sequence[_R | EngineError] | None = None
        if everyone is not None:
            divided = self._combine(stage, everyone, divide)
            parts = [divided] * self.world_size if isinstance(divided, EngineError) else divided
        mine: _R | EngineError = self._scatter(stage, parts)
        return _value(mine)

    def first(self, stage: str, local: Callable[[], _T]) -> _T:
        """Run `local` on rank 0 alone; return its result everywhere."""
        shared: _T | EngineError = self._broadcast(stage, self._attempt(stage, local) if self.coordinates else None)
        return _value(shared)

    def agree(self, stage: str, local: Callable[[], None]) -> None:
        """Run `local` on every rank; return once all of them succeeded."""
        self.gather(stage, local, lambda _: None)

    def _combine(
        self, stage: str, everyone: list[_T | EngineError], combine: Callable[[list[_T]], _R]
    ) -> _R | EngineError:
        """Return what `combine` makes of the ranks' results, or the failure that came first."""
        failures = sorted((result for result in everyone if isinstance(result, EngineError)), key=lambda one: one.time)
        if failures:
            failures[0].failures = tuple(failures)
            return failures[0]
        with uncollected():
            return self._attempt(stage, lambda: combine([one for one in everyone if not isinstance(one, EngineError)]))

    def _attempt(self, stage: str, step: Callable[[], _T]) -> _T | EngineError:
        try:
            return step()
        except BaseException as error:
            if not isinstance(error, Exception | CheckpointException) and type(error).__name__ != "PanicException":
                raise
            known = translate(error)
            known.rank = self.rank if known.rank is None else known.rank
            known.stage = known.stage or stage
            lines = known.traceback or "".join(traceback.format_exception(error))
            known.traceback = redact.mask(lines)[-_TRACEBACK_CHARS:]
            return known

    def _gather(self, stage: str, mine: Any) -> list[Any] | None:  # noqa: ANN401 - any picklable value
        if self.alone:
            return [mine]
        everyone: list[Any] | None = [None] * self.world_size if self.coordinates else None
        self._meet(stage)
        with self._peers(stage), uncollected():
            dist.gather_object(mine, everyone, group=self.group, group_dst=0)
        return everyone

    def _meet(self, stage: str) -> None:
        """Wait for every rank; on rank 0, name the one that died or does not come."""
        started = time.monotonic()
        try:
            dist.monitored_barrier(self.group, timedelta(seconds=self.patience), wait_all_ranks=True)
        except RuntimeError as error:
            named = torch_messages.ABSENT.search(str(error))
            if named is None:
                raise self._lost(stage, error) from error
            ranks = [int(rank) for rank in named[1].split(",")]
            if time.monotonic() - started < self.patience:
                raise PeerLost.died(ranks, stage) from error
            raise PeerHung.missing(ranks, stage, self.patience) from error

    @contextmanager
    def _peers(self, stage: str) -> Iterator[None]:
        """Turn what a collective raises when a rank has died into PeerLost or PeerHung."""
        try:
            yield
        except RuntimeError as error:
            raise self._lost(stage, error) from error

    def _lost(self, stage: str, error: RuntimeError) -> PeerLost | PeerHung:
        """Return the error that names who died or hangs.

        Only rank 0 can tell for the others, which see it go, too, once it has raised.
        """
        if not self.coordinates and torch_messages.TIMED_OUT.search(str(error)):
            return PeerHung(
                f"rank 0 said nothing about {stage} for more than {self.patience:g} s; it hangs, or waits for another "
                "rank",
                rank=0,
            )
        gone = self._gone() if self.coordinates else []
        return PeerLost.died(gone, stage) if gone else PeerLost.told_by(error)

    def _gone(self) -> list[int]:
        """Return the ranks whose connection is closed: gloo refuses at once to wait for a message from them."""
        gone = []
        for rank in range(1, self.world_size):
            try:
                dist.irecv(torch.empty(1), group=self.group, tag=_PROBE_TAG, group_src=rank)
            except RuntimeError:
                gone.append(rank)
        return gone

    def _broadcast(self, stage: str, value: Any) -> Any:  # noqa: ANN401 - any picklable value
        if self.alone:
            return value
        box = [value]
        with self._peers(stage):
            dist.broadcast_object_list(box, group=self.group, group_src=0)
        return box[0]

    def _scatter(self, stage: str, parts: Sequence[Any] | None) -> Any:  # noqa: ANN401 - any picklable value
        if self.alone:
            return (parts or [None])[0]
        box: list[Any] = [None]
        with self._peers(stage), uncollected():
            dist.scatter_object_list(box, None if parts is None else list(parts), group=self.group, group_src=0)
        return box[0]


def _value(result: _T | EngineError) -> _T:
    if isinstance(result, EngineError):
        raise result
    return result


# Neither keeps a group that was destroyed: its threads and sockets would stay.
_own: WeakKeyDictionary[dist.ProcessGroup, dict[str, dist.ProcessGroup]] = WeakKeyDictionary()
_calls: WeakKeyDictionary[dist.ProcessGroup, Counter[str]] = WeakKeyDictionary()


def _joined(group: dist.ProcessGroup | None) -> dist.ProcessGroup:
    of = dist.group.WORLD if group is None else group
    if not isinstance(of, dist.ProcessGroup):
        if of == dist.GroupMember.NON_GROUP_MEMBER:
            raise InvalidOption(
                f"process_group: rank {dist.get_rank()} is no member of it; only its members call save and load with it"
            )
        raise InvalidOption(f"process_group: a {type(of).__name__} is no process group; make one by dist.new_group")
    if of in _inherited:
        raise InvalidOption(
            "this process was forked from a rank, whose process group it can't use: start it with multiprocessing's "
            "spawn or forkserver, or say no_dist=True if it is by itself"
        )
    return of


def _without_group() -> bool:
    """Tell whether this process is by itself; refuse one of several that only does not know of the others."""
    if dist.is_available() and dist.is_initialized():
        return False
    declared = os.environ.get("WORLD_SIZE", "")
    if declared.isdecimal() and int(declared) > 1:
        raise InvalidOption(
            f"WORLD_SIZE is {declared}, but there is no process group, and each rank would save by itself: call "
            "torch.distributed.init_process_group first, or say no_dist=True if this process is by itself"
        )
    return True


_inherited: WeakSet[dist.ProcessGroup] = WeakSet()
"""Groups whose connections a forked child shares with its parent: it has no rank of its own in them."""
os.register_at_fork(after_in_child=lambda: _inherited.update(torch_internals.groups()))


def _count(of: dist.ProcessGroup, use: str) -> int:
    calls = _calls.setdefault(of, Counter())
    calls[use] += 1
    return calls[use]


def _lead_seconds(patience: float) -> float:
    """Return how much longer than rank 0 the other ranks wait: as long again, within 2 s and 30 s."""
    return min(30.0, max(2.0, patience))


def own_group(group: dist.ProcessGroup | None, use: str, patience: float) -> dist.ProcessGroup:
    """Return a gloo group of the same ranks that nobody else uses. The first call for a group is collective.

    The group's timeout is `patience` and some seconds. Rank 0 gives up after `patience`, so that rank 0 names the hung
    rank before the other ranks time out on rank 0.
    """
    of = _joined(group)
    timeout = timedelta(seconds=patience + _lead_seconds(patience))
    own = _own.setdefault(of, {})
    if use not in own:
        own[use] = _made(of, use, patience, timeout)
    made = own[use]
    torch_internals.set_timeout(made, timeout)
    return made


def _made(of: dist.ProcessGroup, use: str, patience: float, timeout: timedelta) -> dist.ProcessGroup:
    """Wait for all ranks of the group at the store by which they joined, then connect them."""
    ranks = dist.get_process_group_ranks(of)
    name = f"dcp-engine/{of.group_name}/{ranks[0]}/{use}"  # groups that are split off at once share a name
    store = torch_internals.default_store(name)
    try:
        store.set(str(of.rank()), "")
        store.wait([str(rank) for rank in range(len(ranks))], timedelta(seconds=patience))
        return torch_internals.connect_gloo(store, name, ranks, of.rank(), timeout)
    except RuntimeError as error:
        absent: list[int] = []
        with suppress(RuntimeError):  # the store may have gone with its rank
            absent = [rank for rank in range(len(ranks)) if not store.check([str(rank)])]
        if absent:
            raise PeerHung.missing(absent, "joining", patience) from error
        raise PeerLost.told_by(error) from error
