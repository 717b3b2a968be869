"""The end of a save, on rank 0: manifest and digests are written, `.metadata` commits, what was replaced goes."""

import hashlib
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import torch
from torch.distributed.checkpoint.metadata import Metadata, StorageMeta
from torch.distributed.checkpoint.storage import WriteResult

from dcp_contract.checkpoint_info import CheckpointInfo
from dcp_engine import failpoints
from dcp_engine.call_options import SaveOptions
from dcp_engine.commit import protocol, snapshot
from dcp_engine.commit import replaced as grace
from dcp_engine.errors import CheckpointCorrupted, CheckpointNotFound
from dcp_engine.format import layout
from dcp_engine.format import metadata as dcp_metadata
from dcp_engine.format.manifest import Manifest
from dcp_engine.stores.protocol import Store, weaker
from dcp_engine.transfer.file_plan import ONE_REQUEST


def examine(store: Store, *, overwrite: bool) -> str:
    """Refuse a save that the URL does not take, before a byte moves; return how the commit is guarded.

    Raises:
        CheckpointExists: something is committed, and `overwrite` is false.
    """
    if not overwrite:
        protocol.refuse_if_committed(store)
        return store.guard("create")
    protocol.committed(store)  # what can't be replaced is refused before a byte moves
    # Which of the two it will be the commit finds out.
    return weaker(store.guard("replace"), store.guard("create"))


class Publication:
    """Makes what all ranks wrote the checkpoint at the URL."""

    def __init__(self, store: Store, options: SaveOptions, *, save_id: str, world_size: int, guard: str) -> None:
        self._store = store
        self._options = options
        self._save_id = save_id
        self._world_size = world_size
        self._guard = guard
        self._keep = store.keep_replaced if options.keep_replaced is None else options.keep_replaced
        self._replaced = ""
        """After the commit: which of our own saves was replaced."""

    def publish(self, metadata: Metadata, results: list[list[WriteResult]], meta: StorageMeta) -> CheckpointInfo:
        """Write the manifest and commit; return what was saved."""
        save = Manifest(
            save_id=self._save_id,
            url=self._store.url,
            origin=self._options.origin,
            step=self._options.step,
            world_size=self._world_size,
            torch_version=torch.__version__,
            created_time=datetime.now(UTC).replace(microsecond=0),
            conflict_guard=self._guard,
            block_size=layout.BLOCK,
        )
        described = dcp_metadata.described(metadata, results, meta, save)
        trailer, info = self._write_manifest(described.manifest, described.blocks)
        self._replaced = self._commit(described.pickled + trailer.encode())
        return info

    def remove_replaced(self) -> None:
        """Remove what was replaced and need not be kept; best when all ranks know of the commit."""
        if self._options.overwrite:
            protocol.remove_replaced(self._store, "" if self._keep > timedelta(0) else self._replaced)

    def _write_manifest(self, manifest: Manifest, blocks: bytes) -> tuple[layout.Trailer, CheckpointInfo]:
        """Write the sidecar and the manifest, and make sure, at the same time, that all data files are there.

        Returns:
            The trailer that names the manifest, and what the save returns: after the commit nothing is to fail.
        """
        failpoints.reach("before manifest")
        encoded = manifest.encode()
        sha256 = hashlib.sha256(encoded).hexdigest()
        info = manifest.info(sha256)
        place = layout.manifest_path(self._save_id)
        sizes = {file.path: file.size for file in manifest.files}
        with ThreadPoolExecutor(3) as pool:
            steps = [
                pool.submit(self._write, layout.blocks_path(self._save_id), blocks),
                pool.submit(self._write, place, encoded),
                pool.submit(protocol.check_files, self._store, self._save_id, sizes),
            ]
        for step in steps:
            step.result()
        return layout.Trailer(self._save_id, place, sha256), info

    def _write(self, path: str, data: bytes) -> None:
        self._store.write(path, [data], part_size=ONE_REQUEST, parallel=1)

    def _commit(self, content: bytes) -> str:
        """Commit, and return the id of the save that was replaced; empty if there was none, or a stock checkpoint."""
        failpoints.reach("before commit")
        stock_files = self._stock_files() if self._options.overwrite else []

        def mark(replaced: protocol.Committed) -> None:
            files = [] if replaced.save_id else stock_files
            # Without a tombstone nobody could tell the files of a stock checkpoint from somebody else's.
            if (self._keep > timedelta(0) or files) and not replaced.damage:
                grace.mark(self._store, replaced.save_id, by=self._save_id, keep=self._keep, files=files)

        overwrite = self._options.overwrite
        replaced = protocol.commit(self._store, self._save_id, content, overwrite=overwrite, before=mark)
        failpoints.reach("after commit")
        return replaced.save_id if replaced else ""

    def _stock_files(self) -> list[str]:
        """Return the data files of a stock checkpoint that is about to be replaced."""
        try:
            found = protocol.committed(self._store)
            if found is None or found.trailer:
                return []
            return dcp_metadata.stock_files(snapshot.read(self._store).manifest(self._store.url))
        except (CheckpointNotFound, CheckpointCorrupted, FileNotFoundError):
            return []
