"""DCP's StorageWriter over the commit protocol.

`dcp_engine.save` does without it and adds what DCP has no hook for: clean-up on every rank after a failure. Under bare
`dcp.save` a rank that fails removes its own files; those of the other ranks stay behind as orphans, which are
no checkpoint.
"""

from collections.abc import Mapping, Sequence
from datetime import timedelta
from os import PathLike
from typing import Any

from torch.distributed.checkpoint.metadata import Metadata, StorageMeta
from torch.distributed.checkpoint.planner import SavePlan, SavePlanner
from torch.distributed.checkpoint.storage import StorageWriter, WriteResult
from torch.futures import Future

from dcp_contract.checkpoint_info import CheckpointInfo, Origin
from dcp_engine import failpoints, pending, torch_internals
from dcp_engine.call_options import ProgressCallback, SaveOptions, Unloadable
from dcp_engine.errors import InvalidOption
from dcp_engine.stores.opening import only_one
from dcp_engine.stores.protocol import MEMORY_LIMIT
from dcp_engine.transfer.endpoint import StorageEndpoint
from dcp_engine.transfer.payload import Lookup
from dcp_engine.transfer.save_transfer import SaveTransfer


class CheckpointWriter(StorageEndpoint, StorageWriter):
    """Writes one checkpoint at a time to `url`, atomically; for stock `dcp.save` and `dcp.async_save`.

    Every rank makes one, and DCP calls its methods. Options that differ from `dcp_engine.save`: there are no `drift`
    and no collectives of the engine's own, so replicas are not compared.

    Args:
        url: where the checkpoint goes: an fsspec URL or a path. The same on every rank, as all that follows is, but for
            `on_progress`.
        overwrite: False refuses a committed checkpoint (CheckpointExists), True replaces it.
        storage_options: options of the store that are no secret, by their neutral names
            (`dcp_contract.storage_options.STORAGE_OPTIONS`). Secrets come from the environment.
        origin: who saves; goes into the manifest.
        step: the training step; goes into the manifest.
        memory_limit: bytes that each rank may hold for parts in flight, beyond the state itself.
        on_progress: called with (bytes done, bytes in all) of this rank: from any thread, one call at a time, until
            the rank's data are written. It must be cheap, since writing waits for it.
        keep_replaced: how long the data of what this save replaces are kept for those who read them, two replaced saves
            at most; a later save, or `clean`, removes them. By default an hour on object stores, no time on file
            systems.
        allow: classes, beyond the common ones, that every load of this checkpoint will name in its `allow`.
        unloadable: whether to warn of objects that no load would take otherwise, or to refuse them: UnsavableState.
        path: the URL by stock DCP's name for it.

    Raises:
        InvalidOption: an option is none, or there is not one URL. What DCP's calls of its methods raise it gathers from
            all ranks in a CheckpointException, each rank's an EngineError.
    """

    def __init__(
        self,
        url: str | PathLike[str] | None = None,
        *,
        overwrite: bool = False,
        storage_options: Mapping[str, Any] | None = None,
        origin: Origin | None = None,
        step: int | None = None,
        memory_limit: int = MEMORY_LIMIT,
        on_progress: ProgressCallback | None = None,
        keep_replaced: timedelta | None = None,
        allow: Sequence[type] = (),
        unloadable: Unloadable = "warn",
        path: str | PathLike[str] | None = None,
    ) -> None:
        self.options = SaveOptions(
            overwrite=overwrite,
            storage_options=storage_options,
            origin=origin,
            step=step,
            memory_limit=memory_limit,
            on_progress=on_progress,
            keep_replaced=keep_replaced,
            allow=allow,
            unloadable=unloadable,
        )
        self.options.refuse_wrong()
        super().__init__(only_one(url, path), self.options)

    def begin(self) -> None:
        """Begin a save of its own; see StorageEndpoint."""
        self._transfer = SaveTransfer(self.store, self.options)
        self._coordinates = False

    @property
    def info(self) -> CheckpointInfo | None:
        """What was saved; rank 0 has it after the commit."""
        return self._transfer.info

    @property
    def save_id(self) -> str:
        """The id of the save; other ranks than rank 0 have it once they write."""
        return self._transfer.save_id

    def storage_meta(self) -> StorageMeta:
        """Return what DCP notes about where the checkpoint lies; holds no secret."""
        return self._transfer.storage_meta()

    def set_up_storage_writer(self, is_coordinator: bool, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401, FBT001
        """Take this rank's part; every rank calls it."""
        del args
        if not kwargs.get("use_collectives", True):
            raise InvalidOption("use_collectives=False would commit each rank by itself; a checkpoint has one commit")
        pending.finish()
        # With a plan that was kept a rank is told where to write by its last save, and by none of this one.
        torch_internals.forget_kept_plans()
        self._coordinates = is_coordinator

    def prepare_local_plan(self, plan: SavePlan) -> SavePlan:
        """Go on with the plan as it is; rank 0 examines the store meanwhile."""
        failpoints.reach("planning")
        if self._coordinates:
            self._transfer.begin_examination()
        return plan

    def prepare_global_plan(self, plans: list[SavePlan]) -> list[SavePlan]:
        """On rank 0, refuse if there is a checkpoint, before a byte moves; give every rank the save id and its number.

        Raises:
            CheckpointExists: there is one, and `overwrite` is false.
        """
        self._transfer.await_examination()
        return self._transfer.assign(plans)

    def write_data(self, plan: SavePlan, planner: SavePlanner) -> Future[list[WriteResult]]:
        """Write this rank's files; every rank calls it. On an error remove them and raise an EngineError."""
        future: Future[list[WriteResult]] = Future()
        future.set_result(self._transfer.write(plan, Lookup(planner)))
        return future

    def finish(self, metadata: Metadata, results: list[list[WriteResult]]) -> None:
        """On rank 0, after every rank said yes: manifest, commit, removal of what was replaced."""
        self._transfer.publish(metadata, results)
        self._transfer.remove_replaced()
