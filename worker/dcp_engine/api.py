"""`save` and `load`: collective calls that end the same way on every rank.

DCP's planners do the planning and our StorageWriter and StorageReader the work; this module drives both, because DCP's
own driver has no hook for a failure, raises a BaseException, and lets every rank read `.metadata` for itself.
"""

import contextlib
import dataclasses
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from datetime import timedelta
from functools import cache
from os import PathLike
from typing import Any

import torch.distributed as dist
from torch.distributed.checkpoint._nested_dict import flatten_state_dict
from torch.distributed.checkpoint.default_planner import DefaultSavePlanner
from torch.distributed.checkpoint.planner import LoadPlan, LoadPlanner, SavePlan, SavePlanner
from torch.distributed.checkpoint.stateful import Stateful
from torch.distributed.checkpoint.storage import WriteResult
from torch.utils._pytree import tree_leaves

from dcp_contract.checkpoint_info import CheckpointInfo, Origin
from dcp_engine.collective.ranks import PATIENCE_SECONDS, Ranks
from dcp_engine.commit import pending, protocol, snapshot
from dcp_engine.errors import (
    CheckpointReplaced,
    EngineError,
    InvalidOption,
    PeerHung,
    PeerLost,
    StateMismatch,
    UnsavableState,
    some,
)
from dcp_engine.rank_values import PerRank, resized
from dcp_engine.stores.protocol import MEMORY_LIMIT
from dcp_engine.transfer import agreement, devices, tensors
from dcp_engine.transfer.agreement import Drift
from dcp_engine.transfer.fingerprint import Prints
from dcp_engine.transfer.loadable import Unloadable
from dcp_engine.transfer.lookup import Lookup
from dcp_engine.transfer.meter import Progress
from dcp_engine.transfer.planner import ByNameLoadPlanner, Strict
from dcp_engine.transfer.reader import CheckpointReader
from dcp_engine.transfer.writer import CheckpointWriter
from dcp_engine.translate import translate


def save(  # noqa: PLR0913 - keyword-only, each with its default
    state_dict: Mapping[str, Any],
    url: str | PathLike[str],
    *,
    overwrite: bool = False,
    storage_options: Mapping[str, Any] | None = None,
    origin: Origin | None = None,
    step: int | None = None,
    planner: SavePlanner | None = None,
    process_group: dist.ProcessGroup | None = None,
    memory_limit: int = MEMORY_LIMIT,
    patience: float = PATIENCE_SECONDS,
    on_progress: Progress | None = None,
    keep_replaced: timedelta | None = None,
    no_dist: bool = False,
    drift: Drift = "warn",
    allow: Sequence[type] = (),
    unloadable: Unloadable = "warn",
) -> CheckpointInfo:
    """Save a sharded state dict; every rank of the group calls it and gets the same result or the same error.

    Values that have `state_dict` and `load_state_dict` are saved through them. On an error nothing is committed and
    what this save wrote is removed; a checkpoint that stood at the URL before still stands. An `async_save` that is
    still on its way ends first, and its error is raised.

    What several ranks have under one name is saved from one of them. If it is no tensor it must be equal on all; what
    belongs to a rank goes into `per_rank`. Of replicas of a tensor that are not equal bit for bit, `drift` says what
    becomes: a warning that names them and the ranks, a refusal, or nothing, and no comparison.

    Of objects that a load would refuse, `unloadable` says what becomes: a warning that names the entries and their
    classes, or a refusal. Classes in `allow` are not meant: whoever loads them names them, too.

    A rank that lags behind the others by more than `patience` seconds, which are the same on all ranks, counts as hung
    and is named. With `no_dist` this process saves by itself, as it must say where a launcher started several
    (WORLD_SIZE) and no process group joins them.

    With `overwrite` the data of what is replaced are kept for `keep_replaced`, by default an hour on object stores and
    not at all on file systems, so that whoever reads them can finish. At one URL two replaced saves are kept at most;
    the next save with `overwrite`, or `clean`, removes what is due.

    Raises:
        EngineError: a subclass per cause, see `dcp_engine.errors`; `rank` names the rank that failed first.
    """
    return save_now(
        state_dict,
        url,
        Ranks(process_group, patience=patience, no_dist=no_dist),
        before=pending.settle,
        overwrite=overwrite,
        storage_options=storage_options,
        origin=origin,
        step=step,
        planner=planner,
        memory_limit=memory_limit,
        on_progress=on_progress,
        keep_replaced=keep_replaced,
        drift=drift,
        allow=allow,
        unloadable=unloadable,
    )


def save_now(
    state_dict: Mapping[str, Any],
    url: str | PathLike[str],
    ranks: Ranks,
    *,
    before: Callable[[], None] = lambda: None,
    planner: SavePlanner | None = None,
    drift: Drift = "warn",
    **options: Any,  # noqa: ANN401 - those of CheckpointWriter
) -> CheckpointInfo:
    """Save what `save` or a background save was called for; what fails on a rank `before` that fails on all."""

    @cache
    def opened() -> CheckpointWriter:
        return CheckpointWriter(url, **options)

    def values() -> dict[str, Any]:
        before()
        return {key: plain(value) for key, value in state_dict.items()}

    try:
        return _save(ranks, opened, planner or DefaultSavePlanner(), values, drift)
    except EngineError as error:
        if ranks.coordinates and not error.commit_unknown and opened.cache_info().currsize and opened().info is None:
            _remove_failed(opened())
        if isinstance(error, UnsavableState):
            raise UnsavableState.of_ranks(error) from error
        raise


def load(  # noqa: PLR0913 - keyword-only, each with its default
    state_dict: dict[str, Any],
    url: str | PathLike[str],
    *,
    storage_options: Mapping[str, Any] | None = None,
    planner: LoadPlanner | None = None,
    process_group: dist.ProcessGroup | None = None,
    check: bool = True,
    allow: Sequence[type] = (),
    memory_limit: int = MEMORY_LIMIT,
    patience: float = PATIENCE_SECONDS,
    on_progress: Progress | None = None,
    strict: Strict = "asked",
    convert: bool = True,
    no_dist: bool = False,
) -> CheckpointInfo:
    """Load into a sharded state dict, in place; every rank of the group calls it.

    Every byte is compared with its digest before it reaches a tensor, unless `check` is false. If the checkpoint is
    replaced meanwhile, the load starts over, once, with the new one; two saves are never mixed. After an error the
    content of `state_dict` is undefined. An `async_save` of this process that is still on its way ends first; the error
    of one to this very URL is raised, if nobody has seen it yet, rather than what stood there before it be loaded.

    Values that have `state_dict` and `load_state_dict` are loaded through them, and must ask for all that the
    checkpoint holds of them, unless there is a `planner`: a fresh optimizer, for one, has no state yet.

    All that is asked for must be in the checkpoint; with `strict="both"` all that is in the checkpoint must be asked
    for by some rank, too, within the parts of which one asks for anything. A part is what a name has before its first
    dot: `model`, `optim`. Values are converted to the type of the tensor that they go into, and that is logged, unless
    they would become others: a fraction an integer, a number one that the type does not have. With `convert=False` no
    value is. `entries` of the result counts what was loaded, left out and converted. A `planner` has its own rules.
    With `no_dist` this process loads by itself.

    Raises:
        EngineError: a subclass per cause, see `dcp_engine.errors`; `rank` names the rank that failed first.
    """
    ranks = Ranks(process_group, patience=patience, no_dist=no_dist)

    @cache
    def opened() -> CheckpointReader:
        return CheckpointReader(
            url,
            storage_options=storage_options,
            check=check,
            allow=allow,
            memory_limit=memory_limit,
            on_progress=on_progress,
        )

    @cache
    def values() -> dict[str, Any]:
        return {key: plain(state_dict[key]) for key in sorted(state_dict)}

    asked: dict[str, Any] = {}

    def ask(names: Collection[str]) -> dict[str, Any]:
        kept = resized(state_dict, names)
        if kept and ranks.coordinates:
            protocol.LOG.warning("another number of ranks saved %s: it stays as it is", some(kept))
        if isinstance(planner, ByNameLoadPlanner):
            planner.let_stay(kept)
        asked.clear()
        asked.update((key, value) for key, value in values().items() if key not in kept)
        return asked

    def hand_over() -> None:
        for key, value in asked.items():
            target = state_dict.get(key)  # a planner may have made others of what the checkpoint holds
            if isinstance(target, Stateful):
                _take(target, value)
            else:
                state_dict[key] = value

    objects = [key for key, value in state_dict.items() if isinstance(value, Stateful)]
    planner = planner or ByNameLoadPlanner(objects, strict=strict, convert=convert)
    try:
        _load(ranks, opened, planner, ask, lambda: pending.wait_before(url, raises=True))
    except CheckpointReplaced:
        _load(ranks, opened, planner, ask)
    ranks.agree("handing over", hand_over)
    summary = planner.summary if isinstance(planner, ByNameLoadPlanner) else None
    return opened().info().model_copy(update={"entries": summary})


def plain(value: Any) -> Any:  # noqa: ANN401 - whatever a state dict holds
    """Return what a Stateful has to save, or the value itself."""
    if not isinstance(value, Stateful):
        return value
    with _own_files(value, "state_dict"):
        return value.state_dict()


def refuse_unsavable(values: dict[str, Any]) -> dict[str, Any]:
    """Refuse, before anything is written, what no load would give back as it was; return the entries by name.

    Raises:
        UnsavableState: it names every such entry.
    """
    entries, _ = flatten_state_dict(values)
    if faults := tensors.faults(entries):
        raise UnsavableState.of(faults)
    if nested := [name for name, value in entries.items() if isinstance(value, PerRank)]:
        raise UnsavableState(f"dcp_engine.per_rank stands at the top level of a state dict, not at {some(nested)}")
    return entries


def _take(target: Stateful, value: dict[str, Any]) -> None:
    with _own_files(target, "load_state_dict"):
        try:
            target.load_state_dict(value)
        except (RuntimeError, ValueError, KeyError, TypeError) as error:
            what = f"{type(target).__name__}.load_state_dict()"
            raise StateMismatch(f"{what} does not take what was loaded: {type(error).__name__}: {error}") from error


@contextlib.contextmanager
def _own_files(owner: Stateful, method: str) -> Iterator[None]:
    """Tell a file that an object misses from one of the checkpoint."""
    try:
        yield
    except OSError as error:
        raise EngineError(f"{type(owner).__name__}.{method}(): {type(error).__name__}: {error}") from error


def _save(
    ranks: Ranks,
    opened: Callable[[], CheckpointWriter],
    planner: SavePlanner,
    state_dict: Callable[[], dict[str, Any]],
    drift: Drift,
) -> CheckpointInfo:
    metadata = []
    lookup = Lookup(planner)
    comparison = agreement.Comparison(lookup, ranks.world_size, drift)

    def plan_mine() -> tuple[SavePlan, tuple[object, ...], Prints]:
        values = state_dict()
        comparison.entries = refuse_unsavable(values)
        # What is compared and what is written are the same values only if none of them is still being computed.
        devices.synchronize(devices.of(tree_leaves(values)))
        writer = opened()
        planner.set_up_planner(values, writer.storage_meta(), ranks.coordinates)
        writer.begin(coordinates=ranks.coordinates)
        # A rank that gave up waiting is one call ahead of those that come late.
        call = f"call {ranks.call}" if writer.step is None else f"step {writer.step}"
        plan = planner.create_local_plan()
        objects = comparison.offer(plan)
        return writer.prepare_local_plan(plan), (writer.store.url, call, ranks.patience), objects

    def plan_all(offers: list[tuple[SavePlan, tuple[object, ...], Prints]]) -> list[SavePlan]:
        _same("(url, step or number of the call, patience)", [call for _, call, _ in offers])
        # A planner that keeps plans would keep one that no rank ever gets.
        opened().await_look()
        local = [plan for plan, _, _ in offers]
        agreement.refuse_unlike(local)
        comparison.refuse_different([objects for _, _, objects in offers], local)
        plans, found = planner.create_global_plan(local)
        metadata.append(found)
        return opened().prepare_global_plan(plans)

    plan = ranks.scatter("planning", plan_mine, plan_all)

    def write() -> tuple[list[WriteResult], Prints]:
        replicas = comparison.replicas()
        # A planner that keeps plans would bring back what the writer told it in an earlier save.
        final = dataclasses.replace(planner.finish_plan(plan), storage_data=plan.storage_data)
        return opened().write(final, lookup), replicas

    def finish(written: list[tuple[list[WriteResult], Prints]]) -> CheckpointInfo | None:
        comparison.report_drift([replicas for _, replicas in written], metadata[0])
        opened().publish(metadata[0], [results for results, _ in written])
        return opened().info

    try:
        info = ranks.gather("writing", write, finish)
    except (PeerHung, PeerLost) as error:
        # What no rank reported is what this one saw: rank 0 may be about to commit, or have done so before it went.
        error.commit_unknown = error.commit_unknown or not (ranks.coordinates or error.stage)
        raise
    assert info is not None  # noqa: S101 - finish sets it or raises
    if ranks.coordinates:
        opened().remove_replaced()
    return info


def _load(
    ranks: Ranks,
    opened: Callable[[], CheckpointReader],
    planner: LoadPlanner,
    state_dict: Callable[[Collection[str]], dict[str, Any]],
    before: Callable[[], None] = lambda: None,
) -> None:
    found = ranks.gather("reading .metadata", before, lambda _: snapshot.read(opened().store))

    def plan_mine() -> tuple[LoadPlan, tuple[object, ...]]:
        reader = opened()
        reader.use(found)
        metadata = reader.read_metadata()
        if isinstance(planner, ByNameLoadPlanner) and reader.manifest is not None:
            planner.saved_by = reader.manifest.world_size
        values = state_dict(metadata.state_dict_metadata.keys())
        reader.set_up_storage_reader(metadata, ranks.coordinates)
        planner.set_up_planner(values, metadata, ranks.coordinates)
        try:
            return reader.prepare_local_plan(planner.create_local_plan()), (reader.store.url, ranks.patience)
        except (RuntimeError, ValueError, KeyError) as error:
            raise StateMismatch(str(error).strip("'\"")) from error

    def plan_all(offers: list[tuple[LoadPlan, tuple[object, ...]]]) -> list[LoadPlan]:
        _same("(url, patience)", [call for _, call in offers])
        return opened().prepare_global_plan(planner.create_global_plan([plan for plan, _ in offers]))

    plan = ranks.scatter("planning", plan_mine, plan_all)
    ranks.agree("reading", lambda: opened().read_data(planner.finish_plan(plan), planner).wait())


def _same(what: str, values: Sequence[object]) -> None:
    """Refuse ranks that do not take part in one and the same call."""
    if any(value != values[0] for value in values):
        rank = next(rank for rank, value in enumerate(values) if value != values[0])
        raise InvalidOption(f"{what} differs between ranks: {values[0]!r} on rank 0, {values[rank]!r} on rank {rank}")


def _remove_failed(writer: CheckpointWriter) -> None:
    """Remove what a failed save wrote, on the one rank that knows that it will not be committed."""
    if not writer.began:
        return
    try:
        found = protocol.committed(writer.store)
        if found is None or found.save_id != writer.save_id:
            protocol.remove_failed(writer.store, writer.save_id)
    except Exception as error:  # noqa: BLE001 - the save's own error is the one to report
        with contextlib.suppress(Exception):
            protocol.LOG.warning("%s: files of a failed save remain: %s", writer.store.url, translate(error))
