"""Collective steps in which every rank raises the same EngineError, and the error names the rank that failed first.

Every method is a collective call: each rank of the group makes it, in the same order. Without an initialised process
group there is one rank and nothing is sent.
"""

import traceback
from collections.abc import Callable, Sequence
from typing import Any, Final, TypeVar

import torch.distributed as dist
from torch.distributed.checkpoint.api import CheckpointException

from dcp_worker.engine.errors import EngineError, PeerLost, translate

_T = TypeVar("_T")
_R = TypeVar("_R")
_TRACEBACK_CHARS: Final = 4000


class Ranks:
    """The ranks of one save or load. Rank 0 of the group coordinates."""

    def __init__(self, group: dist.ProcessGroup | None = None, *, url: str = "") -> None:
        self.alone = not (dist.is_available() and dist.is_initialized())
        self.group = None if self.alone else group or _with_cpu_backend()
        self.rank = 0 if self.alone else dist.get_rank(self.group)
        self.world_size = 1 if self.alone else dist.get_world_size(self.group)
        self._url = url

    @property
    def coordinates(self) -> bool:
        """Whether this is the rank that plans for all and commits."""
        return self.rank == 0

    def gather(self, stage: str, local: Callable[[], _T], combine: Callable[[list[_T]], _R]) -> _R:
        """Run `local` on every rank and `combine` on rank 0 over what they return; return its result everywhere."""
        mine = self._attempt(stage, local)
        everyone = self._gather(mine)
        result: _R | EngineError | None = None
        if everyone is not None:
            result = _first_failure(everyone) or self._attempt(stage, lambda: combine(everyone))  # type: ignore[arg-type]
        return _value(self._broadcast(result))  # type: ignore[arg-type]

    def scatter(self, stage: str, local: Callable[[], _T], divide: Callable[[list[_T]], list[_R]]) -> _R:
        """Run `local` on every rank and `divide` on rank 0; return to each rank its own part."""
        mine = self._attempt(stage, local)
        everyone = self._gather(mine)
        parts: list[_R | EngineError] | None = None
        if everyone is not None:
            divided = _first_failure(everyone) or self._attempt(stage, lambda: divide(everyone))  # type: ignore[arg-type]
            parts = [divided] * self.world_size if isinstance(divided, EngineError) else divided  # type: ignore[assignment]
        return _value(self._scatter(parts))

    def first(self, stage: str, local: Callable[[], _T]) -> _T:
        """Run `local` on rank 0 alone; return its result everywhere."""
        return _value(self._broadcast(self._attempt(stage, local) if self.coordinates else None))  # type: ignore[arg-type]

    def agree(self, stage: str, local: Callable[[], None]) -> None:
        """Run `local` on every rank; return once all of them succeeded."""
        self.gather(stage, local, lambda _: None)

    def _attempt(self, stage: str, step: Callable[[], _T]) -> _T | EngineError:
        try:
            return step()
        except (Exception, CheckpointException) as error:  # noqa: BLE001 - carried to all ranks and raised there
            known = translate(error, url=self._url)
            known.rank = self.rank if known.rank is None else known.rank
            known.stage = known.stage or stage
            known.traceback = known.traceback or "".join(traceback.format_exception(error))[-_TRACEBACK_CHARS:]
            return known

    def _gather(self, mine: Any) -> list[Any] | None:  # noqa: ANN401 - any picklable value
        if self.alone:
            return [mine]
        everyone: list[Any] | None = [None] * self.world_size if self.coordinates else None
        with _peers():
            dist.gather_object(mine, everyone, group=self.group, group_dst=0)
        return everyone

    def _broadcast(self, value: Any) -> Any:  # noqa: ANN401 - any picklable value
        if self.alone:
            return value
        box = [value]
        with _peers():
            dist.broadcast_object_list(box, group=self.group, group_src=0)
        return box[0]

    def _scatter(self, parts: list[Any] | None) -> Any:  # noqa: ANN401 - any picklable value
        if self.alone:
            return (parts or [None])[0]
        box: list[Any] = [None]
        with _peers():
            dist.scatter_object_list(box, parts, group=self.group, group_src=0)
        return box[0]


class _peers:  # noqa: N801 - reads as a word after `with`
    """Turn what a collective raises when a rank has died into PeerLost."""

    def __enter__(self) -> None: ...

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if isinstance(error, RuntimeError):
            raise PeerLost.told_by(error) from error


def _value(result: _T | EngineError) -> _T:
    if isinstance(result, EngineError):
        raise result
    return result


def _first_failure(results: Sequence[Any]) -> EngineError | None:
    failures = sorted((result for result in results if isinstance(result, EngineError)), key=lambda error: error.time)
    if not failures:
        return None
    failures[0].failures = tuple(failures)
    return failures[0]


_gloo: dict[int, dist.ProcessGroup] = {}


def _with_cpu_backend() -> dist.ProcessGroup:
    """Return a group that can carry objects in host memory: the default one, or a gloo twin of an NCCL one."""
    default = dist.group.WORLD
    assert default is not None  # noqa: S101 - initialised, or we would be alone
    if "cpu" in {device.type for device in default._device_types}:  # noqa: SLF001 - has no public name
        return default
    key = id(default)
    if key not in _gloo:
        _gloo[key] = dist.new_group(backend="gloo")
    return _gloo[key]
