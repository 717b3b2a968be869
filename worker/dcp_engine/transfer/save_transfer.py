"""What one rank does with a store in one save: examine it, write its files, commit, clean up.

`dcp_engine.save` drives it through `saving.SaveCall`, and stock `dcp.save` through `CheckpointWriter`.
"""

import contextlib
import dataclasses
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

from torch.distributed.checkpoint.metadata import Metadata, StorageMeta
from torch.distributed.checkpoint.planner import SavePlan
from torch.distributed.checkpoint.storage import WriteResult

from dcp_contract.checkpoint_info import CheckpointInfo
from dcp_engine.call_options import SaveOptions
from dcp_engine.commit import protocol
from dcp_engine.commit.replacement import examine
from dcp_engine.errors import InvalidOption, UnsavableState
from dcp_engine.format import layout
from dcp_engine.stores.protocol import Store
from dcp_engine.transfer import loadable
from dcp_engine.transfer.file_plan import planned
from dcp_engine.transfer.file_stream import write_files
from dcp_engine.transfer.payload import Lookup
from dcp_engine.transfer.publication import Publication
from dcp_engine.translate import translate


@dataclass
class _Assignment:
    """What rank 0 tells each rank with its plan. A planner that keeps plans would bring the last save's again."""

    save_id: str
    rank: int
    used: bool = False

    @property
    def prefix(self) -> str:
        """What stock's writer looks for, where a planner that keeps plans gives it one of ours."""
        return f"__{self.rank}_"


class SaveTransfer:
    """One save of one rank at one URL."""

    def __init__(self, store: Store, options: SaveOptions) -> None:
        self.store = store
        self.options = options
        self.save_id = layout.new_save_id()
        """That of rank 0 is the save's; the other ranks learn it with their plans."""
        self.info: CheckpointInfo | None = None
        """Rank 0, after the commit: what was saved."""
        self._examination: Future[str] | None = None
        self._world_size = 0
        """Rank 0, once ranks were told where to write: how many."""
        self._publication: Publication | None = None

    @property
    def committed(self) -> bool:
        """Whether this rank has committed the save."""
        return self.info is not None

    def storage_meta(self) -> StorageMeta:
        """Return what DCP notes about where the checkpoint lies; holds no secret."""
        return StorageMeta(checkpoint_id=self.store.url, save_id=self.save_id)

    def begin_examination(self) -> None:
        """On rank 0, begin to examine the store, which takes as long as the planning that goes on meanwhile."""
        pool = ThreadPoolExecutor(1, thread_name_prefix="dcp-examine")
        self._examination = pool.submit(examine, self.store, overwrite=self.options.overwrite)
        pool.shutdown(wait=False)

    def await_examination(self) -> str:
        """On rank 0, wait for the examination; return how the commit is guarded.

        Raises:
            CheckpointExists: there is one, and `overwrite` is false.
        """
        return self._examination.result() if self._examination else ""

    def assign(self, plans: Sequence[SavePlan]) -> list[SavePlan]:
        """On rank 0, tell each rank the save id and its number, with its plan: from now on ranks may write."""
        self._world_size = len(plans)
        return [
            dataclasses.replace(plan, storage_data=_Assignment(self.save_id, rank)) for rank, plan in enumerate(plans)
        ]

    def write(self, plan: SavePlan, lookup: Lookup) -> list[WriteResult]:
        """Write this rank's files; on an error remove them and raise an EngineError."""
        assignment = plan.storage_data
        if not isinstance(assignment, _Assignment) or assignment.used:
            raise InvalidOption(
                "this planner keeps the plans of earlier saves, which tell no rank where to write; use dcp_engine.save"
            )
        assignment.used = True
        self.save_id = assignment.save_id
        self._need_loadable(loadable.faults(plan.items, lookup, self.options.allow))
        files = planned(
            plan.items,
            self.store,
            save_id=assignment.save_id,
            rank=assignment.rank,
            memory_limit=self.options.memory_limit,
        )
        try:
            return write_files(files, self.store, lookup, self.options.on_progress)
        except BaseException:
            self._remove_own(files.paths)
            raise

    def publish(self, metadata: Metadata, results: list[list[WriteResult]]) -> CheckpointInfo:
        """On rank 0, after every rank said yes: manifest and commit."""
        self._publication = Publication(
            self.store,
            self.options,
            save_id=self.save_id,
            world_size=self._world_size or 1,
            guard=self.await_examination(),
        )
        self.info = self._publication.publish(metadata, results, self.storage_meta())
        return self.info

    def remove_replaced(self) -> None:
        """On rank 0, best when all ranks know of the commit: remove what was replaced and need not be kept."""
        if self._publication:
            self._publication.remove_replaced()

    def remove_failed(self) -> None:
        """On rank 0, remove what all ranks wrote of a save that failed, unless it was committed all the same."""
        if not self._world_size:
            return
        try:
            found = protocol.committed(self.store)
            if found is None or found.save_id != self.save_id:
                protocol.remove_failed(self.store, self.save_id)
        except Exception as error:  # noqa: BLE001 - the save's own error is the one to report
            with contextlib.suppress(Exception):
                protocol.LOG.warning("%s: files of a failed save remain: %s", self.store.url, translate(error))

    def _need_loadable(self, faults: Mapping[str, str]) -> None:
        """Warn of what no load would take, or refuse it before anything is written."""
        if faults and self.options.unloadable == "refuse":
            raise UnsavableState.not_loadable(faults)
        if faults:
            protocol.LOG.warning("%s: saved, but %s", self.store.url, UnsavableState.not_loadable(faults))

    def _remove_own(self, paths: list[str]) -> None:
        try:
            self.store.delete(paths)
        except Exception as error:  # noqa: BLE001 - the first error is the one to report
            protocol.LOG.warning(
                "%s: files of a failed save could not be removed: %s", self.store.url, translate(error)
            )
