"""DCP's StorageReader over `LoadTransfer`.

`dcp_engine.load` does without it and adds what DCP has no hook for: one read of `.metadata` for all ranks, and one
restart if the checkpoint is replaced under the load. Under bare `dcp.load` every rank reads `.metadata` itself; if they
saw different saves, or the data went away, CheckpointReplaced is raised on all ranks.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from os import PathLike
from typing import Any

from torch.distributed.checkpoint.metadata import Metadata
from torch.distributed.checkpoint.planner import LoadPlan, LoadPlanner
from torch.distributed.checkpoint.storage import StorageReader
from torch.futures import Future

from dcp_contract.checkpoint_info import CheckpointInfo
from dcp_engine import pending
from dcp_engine.call_options import LoadOptions, ProgressCallback
from dcp_engine.commit import snapshot
from dcp_engine.errors import CheckpointReplaced
from dcp_engine.format import layout
from dcp_engine.format.manifest import Manifest
from dcp_engine.stores.opening import only_one
from dcp_engine.stores.protocol import MEMORY_LIMIT
from dcp_engine.transfer.endpoint import StorageEndpoint
from dcp_engine.transfer.load_transfer import LoadTransfer


class CheckpointReader(StorageEndpoint, StorageReader):
    """Reads the checkpoint that is committed at `url`; one that stock DCP saved, too. For stock `dcp.load`.

    Every rank makes one, and DCP calls its methods.

    Args:
        url: where the checkpoint stands: an fsspec URL or a path. The same on every rank, as all that follows is, but
            for `on_progress`.
        storage_options: options of the store that are no secret, by their neutral names
            (`dcp_contract.storage_options.STORAGE_OPTIONS`). Secrets come from the environment.
        check: compare every byte with its digest before it reaches a tensor.
        allow: classes, beyond the common ones, that entries which are no tensors may hold; each runs what it likes.
        memory_limit: bytes that each rank may hold for transfers, beyond the state itself.
        on_progress: called with (bytes done, bytes in all) of this rank: from any thread, one call at a time, until
            the rank's data are read. It must be cheap, since reading waits for it.
        path: the URL by stock DCP's name for it.

    Raises:
        InvalidOption: an option is none, or there is not one URL. What DCP's calls of its methods raise it gathers from
            all ranks in a CheckpointException, each rank's an EngineError.
    """

    def __init__(
        self,
        url: str | PathLike[str] | None = None,
        *,
        storage_options: Mapping[str, Any] | None = None,
        check: bool = True,
        allow: Sequence[type] = (),
        memory_limit: int = MEMORY_LIMIT,
        on_progress: ProgressCallback | None = None,
        path: str | PathLike[str] | None = None,
    ) -> None:
        self.options = LoadOptions(
            storage_options=storage_options,
            check=check,
            allow=allow,
            memory_limit=memory_limit,
            on_progress=on_progress,
        )
        self.options.refuse_wrong()
        super().__init__(only_one(url, path), self.options)

    def begin(self) -> None:
        """Begin a load of its own; see StorageEndpoint."""
        self._transfer: LoadTransfer | None = None
        self.load_id = layout.new_save_id()
        """Of one load, as stock readers have it: DCP's Metadata carries it."""

    @property
    def manifest(self) -> Manifest | None:
        """What is read, once `read_metadata` was called; that of a stock checkpoint knows no sizes and no digests."""
        return self._transfer.manifest if self._transfer else None

    def info(self) -> CheckpointInfo:
        """Return the summary of what was read."""
        return self._transfer.info() if self._transfer else CheckpointInfo(url=self.store.url)

    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:  # noqa: ANN401
        """Return DCP's Metadata, made from the manifest; nothing is unpickled for it.

        With `rank`, that of the one rank's own `__<rank>.metadata`, as dcp.save(use_collectives=False) writes it.
        """
        del args
        pending.wait_before(self.store.url, raises=True)
        rank = kwargs.get("rank")
        name = layout.METADATA if rank is None else f"__{int(rank)}{layout.METADATA}"
        self._transfer = LoadTransfer(self.store, self.options, snapshot.read(self.store, name), name)
        return self._transfer.metadata(self.load_id, of_one_rank=rank is not None)

    def set_up_storage_reader(self, metadata: Metadata, is_coordinator: bool, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401, FBT001
        """Nothing is left to learn; every rank calls it."""
        del metadata, is_coordinator, args, kwargs

    def prepare_local_plan(self, plan: LoadPlan) -> LoadPlan:
        """Note which save this rank looks at."""
        return dataclasses.replace(plan, storage_data=self.manifest.save_id if self.manifest else "")

    def prepare_global_plan(self, plans: list[LoadPlan]) -> list[LoadPlan]:
        """Make sure, on rank 0, that all ranks look at one save."""
        if len({plan.storage_data for plan in plans}) > 1:
            raise CheckpointReplaced(self.store.url, plans[0].storage_data)
        return plans

    def read_data(self, plan: LoadPlan, planner: LoadPlanner) -> Future[None]:
        """Fill this rank's part of the state dict; every rank calls it. After an error its content is undefined."""
        assert self._transfer is not None  # noqa: S101 - read_metadata made it
        self._transfer.read(plan, planner)
        future: Future[None] = Future()
        future.set_result(None)
        return future
