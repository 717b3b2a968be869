"""`load`: a collective call that ends the same way on every rank.

DCP's planner does the planning and a `LoadTransfer` the work; this module drives both, because DCP's own driver has no
hook for a failure, raises a BaseException, and lets every rank read `.metadata` for itself.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from os import PathLike, fspath
from typing import Any

import torch.distributed as dist
from torch.distributed.checkpoint.planner import LoadPlan, LoadPlanner
from torch.distributed.checkpoint.stateful import Stateful

from dcp_contract.checkpoint_info import CheckpointInfo
from dcp_engine import pending
from dcp_engine.call_options import LoadOptions, ProgressCallback, Strict
from dcp_engine.commit import protocol, snapshot
from dcp_engine.errors import CheckpointReplaced, StateMismatch, some
from dcp_engine.format import layout
from dcp_engine.rank_values import resized
from dcp_engine.ranks import PATIENCE_SECONDS, Ranks
from dcp_engine.stateful import load_into, state_of
from dcp_engine.stores.opening import open_store
from dcp_engine.stores.protocol import MEMORY_LIMIT, Store
from dcp_engine.transfer import agreement
from dcp_engine.transfer.load_transfer import LoadTransfer
from dcp_engine.transfer.planner import ByNameLoadPlanner


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
    on_progress: ProgressCallback | None = None,
    strict: Strict = "asked",
    convert: bool = True,
    no_dist: bool = False,
) -> CheckpointInfo:
    """Load into a sharded state dict, in place. Collective: every rank of the group calls it, in the same order.

    If the checkpoint is replaced meanwhile, the load starts over, once, with the new one; two saves are never mixed.
    After an error the content of `state_dict` is undefined. An `async_save` of this process that is still on its way
    ends first; the error of one to this very URL is raised, if nobody has seen it yet, rather than what stood there
    before it be loaded.

    Values that have `state_dict` and `load_state_dict` are loaded through them, and must ask for all that the
    checkpoint holds of them, unless there is a `planner`: a fresh optimizer, for one, has no state yet.

    Args:
        state_dict: names -> tensors to fill, nested dicts and lists, objects; each rank gives its own shards, which
            may be others than those that were saved.
        url: where the checkpoint stands: an fsspec URL or a path. The same on every rank, as all that follows is, but
            for `on_progress`.
        storage_options: options of the store that are no secret, by their neutral names
            (`dcp_contract.storage_options.STORAGE_OPTIONS`). Secrets come from the environment.
        planner: plans what each rank reads, by rules of its own: `strict` and `convert` are not for it.
        process_group: the ranks that load; by default all.
        check: compare every byte with its digest before it reaches a tensor.
        allow: classes, beyond the common ones, that entries which are no tensors may hold; each runs what it likes.
        memory_limit: bytes that each rank may hold for transfers, beyond the state itself.
        patience: seconds that a rank may lag behind the others; after that it counts as hung and is named.
        on_progress: called with (bytes done, bytes in all) of this rank: from any thread, one call at a time, until
            `load` returns. It must be cheap, since reading waits for it.
        strict: with "asked" all that is asked for must be in the checkpoint; with "both" all that is in the checkpoint
            must be asked for by some rank, too, within the parts of which one asks for anything. A part is what a name
            has before its first dot: `model`, `optim`.
        convert: convert values to the type of the tensor that they go into, and log it, unless they would become
            others: a fraction an integer, a number one that the type does not have. If false no value is converted.
        no_dist: this process loads by itself, without any collective.

    Returns:
        What was loaded, on every rank; its `entries` count what was loaded, left out and converted.

    Raises:
        CheckpointNotFound: nothing is committed at the URL.
        CheckpointCorrupted: bytes do not match their digests, or a file is missing.
        StateMismatch: the checkpoint does not hold what is asked for.
        InvalidOption: an option is none. PeerLost: a rank died. PeerHung: one did not come within `patience` seconds.
        EngineError: another subclass per cause, see `dcp_engine.errors`. The same error on every rank; `rank` names the
            rank that failed first.
    """
    options = LoadOptions(
        storage_options=storage_options,
        check=check,
        allow=allow,
        memory_limit=memory_limit,
        on_progress=on_progress,
    )
    ranks = Ranks(process_group, patience=patience, no_dist=no_dist)
    objects = [key for key, value in state_dict.items() if isinstance(value, Stateful)]
    planner = planner or ByNameLoadPlanner(objects, strict=strict, convert=convert)
    return LoadCall(state_dict, url, ranks, options, planner).run()


@dataclass(frozen=True)
class _LoadOffer:
    """What each rank sends to rank 0 with its plan."""

    plan: LoadPlan
    call: tuple[str, float]
    """URL, patience: the same on all ranks that are in one and the same load."""


class LoadCall:
    """One rank's part in one call of `load`."""

    store: Store | None = None
    """None until this rank has opened it."""
    transfer: LoadTransfer | None = None
    """None until this rank knows which save it reads; another one if the load starts over."""
    states: dict[str, Any] | None = None
    """What the values of `state_dict` have to load into; None until they were asked, which is done once."""

    def __init__(
        self,
        state_dict: dict[str, Any],
        url: str | PathLike[str],
        ranks: Ranks,
        options: LoadOptions,
        planner: LoadPlanner,
    ) -> None:
        self.state_dict = state_dict
        self.url = fspath(url)
        self.ranks = ranks
        self.options = options
        self.planner = planner
        self.asked: dict[str, Any] = {}
        """Those of `states` that are loaded; a planner may put others there."""

    def run(self) -> CheckpointInfo:
        """Load; every rank calls it, and it returns the same or raises the same on each."""
        try:
            self._load_snapshot()
        except CheckpointReplaced:
            self._load_snapshot()
        self.ranks.agree("handing over", self._hand_over)
        summary = self.planner.summary if isinstance(self.planner, ByNameLoadPlanner) else None
        return self._transfer().info().model_copy(update={"entries": summary})

    def _load_snapshot(self) -> None:
        """Load what is committed now, as rank 0 sees it for all."""
        found = self.ranks.gather("reading .metadata", self._await_background_save, lambda _: self._read_snapshot())
        plan = self.ranks.scatter("planning", lambda: self._plan_mine(found), self._plan_all)
        self.ranks.agree("reading", lambda: self._transfer().read(self.planner.finish_plan(plan), self.planner))

    def _await_background_save(self) -> None:
        self.options.refuse_wrong()
        pending.wait_before(self.url, raises=True)

    def _read_snapshot(self) -> snapshot.Snapshot:
        return snapshot.read(self._opened())

    def _transfer_of(self, found: snapshot.Snapshot) -> LoadTransfer:
        return LoadTransfer(self._opened(), self.options, found)

    def _plan_mine(self, found: snapshot.Snapshot) -> _LoadOffer:
        """Plan what this rank reads."""
        transfer = self.transfer = self._transfer_of(found)
        if isinstance(self.planner, ByNameLoadPlanner):
            self.planner.saved_by = transfer.manifest.world_size
        metadata = transfer.metadata(layout.new_save_id())
        self._ask(metadata.state_dict_metadata)
        self.planner.set_up_planner(self.asked, metadata, self.ranks.coordinates)
        try:
            return _LoadOffer(self.planner.create_local_plan(), (transfer.store.url, self.ranks.patience))
        except (RuntimeError, ValueError, KeyError) as error:
            raise StateMismatch(str(error).strip("'\"")) from error

    def _ask(self, names: Collection[str]) -> None:
        """Choose what is loaded: all but the values by rank that another number of ranks saved."""
        kept = resized(self.state_dict, names)
        if kept and self.ranks.coordinates:
            protocol.LOG.warning("another number of ranks saved %s: it stays as it is", some(kept))
        if isinstance(self.planner, ByNameLoadPlanner):
            self.planner.let_stay(kept)
        if self.states is None:
            self.states = {key: state_of(self.state_dict[key]) for key in sorted(self.state_dict)}
        self.asked = {key: value for key, value in self.states.items() if key not in kept}

    def _plan_all(self, offers: list[_LoadOffer]) -> list[LoadPlan]:
        agreement.refuse_other_calls("(url, patience)", [offer.call for offer in offers])
        return self.planner.create_global_plan([offer.plan for offer in offers])

    def _hand_over(self) -> None:
        for key, value in self.asked.items():
            target = self.state_dict.get(key)  # a planner may have made others of what the checkpoint holds
            if isinstance(target, Stateful):
                load_into(target, value)
            else:
                self.state_dict[key] = value

    def _opened(self) -> Store:
        if self.store is None:
            self.store = open_store(self.url, self.options.storage_options)
        return self.store

    def _transfer(self) -> LoadTransfer:
        assert self.transfer is not None  # noqa: S101 - _plan_mine made it
        return self.transfer
