"""`save`: a collective call that ends the same way on every rank.

DCP's planner does the planning and a `SaveTransfer` the work; this module drives both, because DCP's own driver has no
hook for a failure and raises a BaseException.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from os import PathLike, fspath
from typing import Any

import torch.distributed as dist
from torch.distributed.checkpoint.default_planner import DefaultSavePlanner
from torch.distributed.checkpoint.metadata import Metadata
from torch.distributed.checkpoint.planner import SavePlan, SavePlanner
from torch.distributed.checkpoint.storage import WriteResult

from dcp_contract.checkpoint_info import CheckpointInfo, Origin
from dcp_engine import failpoints, pending
from dcp_engine.call_options import Drift, ProgressCallback, SaveOptions, Unloadable
from dcp_engine.errors import EngineError, PeerHung, PeerLost, UnsavableState, some
from dcp_engine.rank_values import PerRank
from dcp_engine.ranks import PATIENCE_SECONDS, Ranks
from dcp_engine.stateful import state_of
from dcp_engine.stores.opening import open_store
from dcp_engine.stores.protocol import MEMORY_LIMIT
from dcp_engine.torch_internals import flatten_state_dict, tree_leaves
from dcp_engine.transfer import agreement, devices, tensors
from dcp_engine.transfer.fingerprint import Prints
from dcp_engine.transfer.payload import Lookup
from dcp_engine.transfer.save_transfer import SaveTransfer


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
    on_progress: ProgressCallback | None = None,
    keep_replaced: timedelta | None = None,
    no_dist: bool = False,
    drift: Drift = "warn",
    allow: Sequence[type] = (),
    unloadable: Unloadable = "warn",
) -> CheckpointInfo:
    """Save a sharded state dict. Collective: every rank of the group calls it, in the same order as its other calls.

    Values that have `state_dict` and `load_state_dict` are saved through them. On an error nothing is committed and
    what this save wrote is removed; a checkpoint that stood at the URL before still stands. An `async_save` that is
    still on its way ends first, and its error is raised.

    What several ranks have under one name is saved from one of them. If it is no tensor it must be equal on all; what
    belongs to a rank goes into `per_rank`.

    Args:
        state_dict: names -> tensors, nested dicts and lists, objects; each rank gives its own shards.
        url: where the checkpoint goes: an fsspec URL or a path. The same on every rank, as all that follows is, but for
            `on_progress`.
        overwrite: replace the checkpoint that is committed there; else it is CheckpointExists.
        storage_options: options of the store that are no secret, by their neutral names
            (`dcp_contract.storage_options.STORAGE_OPTIONS`). Secrets come from the environment.
        origin: who saves; goes into the manifest.
        step: the training step; goes into the manifest.
        planner: plans what each rank writes; by default DCP's own. One planner serves one save at a time.
        process_group: the ranks that save; by default all. Its first rank, rank 0 here, plans for all and commits.
        memory_limit: bytes that each rank may hold for parts in flight, beyond the state itself.
        patience: seconds that a rank may lag behind the others; after that it counts as hung and is named.
        on_progress: called with (bytes done, bytes in all) of this rank: from any thread, one call at a time, until
            `save` returns. It must be cheap, since writing waits for it.
        keep_replaced: how long the data of what this save replaces are kept, so that whoever reads them can finish: by
            default an hour on object stores and not at all on file systems. At one URL two replaced saves are kept at
            most; the next save with `overwrite`, or `clean`, removes what is due.
        no_dist: this process saves by itself, without any collective; it must say so where a launcher started several
            (WORLD_SIZE) and no process group joins them.
        drift: what becomes of replicas of a tensor that are not equal bit for bit: a warning that names them and the
            ranks, UnsavableState, or nothing, and no comparison.
        allow: classes, beyond the common ones, that every load of this checkpoint will name in its own `allow`.
        unloadable: what becomes of objects that a load would refuse: a warning that names the entries and their
            classes, or UnsavableState.

    Returns:
        What was committed, on every rank.

    Raises:
        CheckpointExists: something is committed at the URL, and `overwrite` is false.
        UnsavableState: the state holds what no load would give back as it was.
        InvalidOption: an option is none. PeerLost: a rank died. PeerHung: one did not come within `patience` seconds.
        EngineError: another subclass per cause, see `dcp_engine.errors`. The same error on every rank; `rank` names the
            rank that failed first. With `commit_unknown` nobody can tell whether the save was committed.
    """
    options = SaveOptions(
        overwrite=overwrite,
        storage_options=storage_options,
        origin=origin,
        step=step,
        memory_limit=memory_limit,
        on_progress=on_progress,
        keep_replaced=keep_replaced,
        drift=drift,
        allow=allow,
        unloadable=unloadable,
    )
    ranks = Ranks(process_group, patience=patience, no_dist=no_dist)
    return SaveCall(state_dict, url, ranks, options, planner).run()


@dataclass(frozen=True)
class _SaveOffer:
    """What each rank sends to rank 0 with its plan."""

    plan: SavePlan
    call: tuple[str, str, float]
    """URL, step or number of the call, patience: the same on all ranks that are in one and the same save."""
    objects: Prints
    """The fingerprints of what is no tensor."""


@dataclass(frozen=True)
class _WrittenByRank:
    """What each rank sends to rank 0 once its files are written."""

    results: list[WriteResult]
    replicas: Prints
    """The fingerprints of tensors that other ranks may have, too."""


class SaveCall:
    """One rank's part in one call of `save`, or of `async_save`.

    A planner with `enable_plan_caching` gives the plan of its last call again, as the same object. Two things follow.
    Everything that refuses a save comes before `create_global_plan`: a planner would keep a plan of a save that never
    was, which no rank ever got. And `storage_data` is set anew after `finish_plan`: what the planner gives back holds
    that of an earlier save, with its save id.
    """

    transfer: SaveTransfer | None = None
    """None until this rank has opened the store."""
    metadata: Metadata | None = None
    """Rank 0, after the planning: what the planner makes of all plans."""

    def __init__(
        self,
        state_dict: Mapping[str, Any],
        url: str | PathLike[str],
        ranks: Ranks,
        options: SaveOptions,
        planner: SavePlanner | None = None,
    ) -> None:
        self.state_dict = state_dict
        self.url = fspath(url)
        self.ranks = ranks
        self.options = options
        self.planner = planner or DefaultSavePlanner()
        self.lookup = Lookup(self.planner)
        self.comparison = agreement.Comparison(self.lookup, ranks.world_size, options.drift)

    def run(self) -> CheckpointInfo:
        """Save; every rank calls it, and it returns the same or raises the same on each."""
        try:
            plan = self.ranks.scatter("planning", self._plan_mine, self._plan_all)
            info = self._write(plan)
        except EngineError as error:
            self._remove_failed(error)
            if isinstance(error, UnsavableState):
                raise UnsavableState.of_ranks(error) from error
            raise
        if self.ranks.coordinates:
            self._transfer().remove_replaced()
        return info

    def _plan_mine(self) -> _SaveOffer:
        """Plan what this rank writes."""
        pending.finish()
        self.options.refuse_wrong()
        values = {key: state_of(value) for key, value in self.state_dict.items()}
        self.comparison.entries = refuse_unsavable(values)
        # What is compared and what is written are the same values only if none of them is still being computed.
        devices.synchronize(devices.of(tree_leaves(values)))
        transfer = self.transfer = SaveTransfer(open_store(self.url, self.options.storage_options), self.options)
        self.planner.set_up_planner(values, transfer.storage_meta(), self.ranks.coordinates)
        plan = self.planner.create_local_plan()
        objects = self.comparison.offer(plan)
        failpoints.reach("planning")
        if self.ranks.coordinates:
            transfer.begin_examination()
        # A rank that gave up waiting is one call ahead of those that come late.
        call = f"call {self.ranks.call}" if self.options.step is None else f"step {self.options.step}"
        return _SaveOffer(plan, (transfer.store.url, call, self.ranks.patience), objects)

    def _plan_all(self, offers: list[_SaveOffer]) -> list[SavePlan]:
        """On rank 0, plan what all write; whatever refuses the save comes before the planner's part in it."""
        what = "(url, step or number of the call, patience)"
        agreement.refuse_other_calls(what, [offer.call for offer in offers])
        self._transfer().await_examination()
        local = [offer.plan for offer in offers]
        agreement.refuse_unlike(local)
        self.comparison.refuse_different([offer.objects for offer in offers], local)
        plans, self.metadata = self.planner.create_global_plan(local)
        return self._transfer().assign(plans)

    def _write(self, plan: SavePlan) -> CheckpointInfo:
        """Write this rank's files and, on rank 0, commit once all ranks have written theirs."""
        try:
            return self.ranks.gather("writing", lambda: self._write_mine(plan), self._commit)
        except (PeerHung, PeerLost) as error:
            # What no rank reported is what this one saw: rank 0 may be about to commit, or have done so before it went.
            error.commit_unknown = error.commit_unknown or not (self.ranks.coordinates or error.stage)
            raise

    def _write_mine(self, plan: SavePlan) -> _WrittenByRank:
        replicas = self.comparison.replicas()
        final = replace(self.planner.finish_plan(plan), storage_data=plan.storage_data)
        return _WrittenByRank(self._transfer().write(final, self.lookup), replicas)

    def _commit(self, ranks: list[_WrittenByRank]) -> CheckpointInfo:
        assert self.metadata is not None  # noqa: S101 - _plan_all made it
        self.comparison.report_drift([rank.replicas for rank in ranks], self.metadata)
        return self._transfer().publish(self.metadata, [rank.results for rank in ranks])

    def _transfer(self) -> SaveTransfer:
        assert self.transfer is not None  # noqa: S101 - _plan_mine made it
        return self.transfer

    def _remove_failed(self, error: EngineError) -> None:
        """Remove what was written, on the one rank that knows whether it was, or may still be, committed."""
        if self.ranks.coordinates and self.transfer and not (error.commit_unknown or self.transfer.committed):
            self.transfer.remove_failed()


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
