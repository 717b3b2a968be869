"""The end of a save, on rank 0: manifest and digests are written, `.metadata` commits, what was replaced goes."""

import hashlib
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime

import torch
from torch.distributed.checkpoint.metadata import Metadata, StorageMeta
from torch.distributed.checkpoint.storage import WriteResult

from dcp_contract.checkpoint_info import CheckpointInfo
from dcp_engine import failpoints
from dcp_engine.call_options import SaveOptions
from dcp_engine.commit import protocol
from dcp_engine.commit.replacement import Replacement
from dcp_engine.format import layout
from dcp_engine.format import metadata as dcp_metadata
from dcp_engine.format.manifest import Manifest
from dcp_engine.stores.protocol import Store
from dcp_engine.transfer.file_plan import ONE_REQUEST


class Publication:
    """Makes what all ranks wrote the checkpoint at the URL."""

    def __init__(self, store: Store, options: SaveOptions, *, save_id: str, world_size: int, guard: str) -> None:
        self._store = store
        self._options = options
        self._save_id = save_id
        self._world_size = world_size
        self._guard = guard
        self._replacement = Replacement(store, save_id, overwrite=options.overwrite, keep=options.keep_replaced)

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
        self._replacement.commit(described.pickled + trailer.encode())
        return info

    def remove_replaced(self) -> None:
        """Remove what was replaced and need not be kept; best when all ranks know of the commit."""
        self._replacement.remove_replaced()

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
