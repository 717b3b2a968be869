"""`read`: what a checkpoint holds, without a model or a state dict to load into."""

import dataclasses
from collections.abc import Mapping, Sequence
from os import PathLike
from typing import Any

import torch.distributed as dist
from torch.distributed.checkpoint.metadata import Metadata

from dcp_engine import loading
from dcp_engine.call_options import ProgressCallback
from dcp_engine.errors import CheckpointCorrupted, StateMismatch, some
from dcp_engine.format import layout
from dcp_engine.format.key_mapping import chooses
from dcp_engine.format.nested import Nest
from dcp_engine.ranks import PATIENCE_SECONDS
from dcp_engine.stores.protocol import MEMORY_LIMIT
from dcp_engine.torch_internals import OBJ_PATH, EmptyStateDictLoadPlanner


def read(
    url: str | PathLike[str],
    *,
    keys: Sequence[str] = (),
    storage_options: Mapping[str, Any] | None = None,
    process_group: dist.ProcessGroup | None = None,
    check: bool = True,
    allow: Sequence[type] = (),
    memory_limit: int = MEMORY_LIMIT,
    patience: float = PATIENCE_SECONDS,
    on_progress: ProgressCallback | None = None,
    no_dist: bool = False,
) -> dict[str, Any]:
    """Return what the checkpoint at the URL holds, nested as it was saved, without a state dict to load into.

    Collective: every rank of the group calls it, and each gets all of it; with `no_dist` one process reads by itself.
    The memory for everything that is chosen must be there: a model that is sharded to fit is better loaded by `load`.

    Args:
        url: where the checkpoint stands: an fsspec URL or a path. The same on every rank, as all that follows is, but
            for `on_progress`.
        keys: what is read, by DCP's names: `model` and all below it, `model.layers.0.weight`, or a glob such as
            `*.weight`; everything if there are none. In a list of which not all is chosen the rest is None.
        storage_options: options of the store that are no secret, by their neutral names
            (`dcp_contract.storage_options.STORAGE_OPTIONS`). Secrets come from the environment.
        process_group: the ranks that read; by default all.
        check: compare every byte with its digest before it reaches a tensor.
        allow: classes, beyond the common ones, that entries which are no tensors may hold; each runs what it likes.
        memory_limit: bytes that each rank may hold for transfers, beyond what is returned.
        patience: seconds that a rank may lag behind the others; after that it counts as hung and is named.
        on_progress: called with (bytes done, bytes in all) of this rank: from any thread, one call at a time, until
            `read` returns. It must be cheap, since reading waits for it.
        no_dist: this process reads by itself, without any collective.

    Returns:
        On every rank: whole tensors on the CPU, and the values that are no tensors.

    Raises:
        StateMismatch: a key chooses nothing.
        EngineError: another subclass per cause, as of `load`. The same error on every rank.
    """
    found: dict[str, Any] = {}
    chosen = _Chosen(keys)
    loading.load(
        found,
        url,
        storage_options=storage_options,
        planner=chosen,
        process_group=process_group,
        check=check,
        allow=allow,
        memory_limit=memory_limit,
        patience=patience,
        on_progress=on_progress,
        no_dist=no_dist,
    )
    return _nested(found, chosen)


def _nested(found: Mapping[str, Any], chosen: "_Chosen") -> dict[str, Any]:
    nest = Nest(chosen.entries)
    try:
        for name, value in found.items():
            nest.put(chosen.paths.get(name, (name,)), value)
    except ValueError as error:
        raise CheckpointCorrupted(layout.METADATA, str(error)) from error
    return nest.state


class _Chosen(EmptyStateDictLoadPlanner):
    """Makes room for what is chosen."""

    def __init__(self, keys: Sequence[str]) -> None:
        super().__init__(flatten_state_dict=False, flatten_sharded_tensors=False)  # type: ignore[no-untyped-call]
        self.paths: dict[str, OBJ_PATH] = {}
        """Where each entry stood when it was saved."""
        self.entries = 0
        """How many the checkpoint holds."""
        self._globs = (keys,) if isinstance(keys, str) else tuple(keys)

    def set_up_planner(
        self,
        state_dict: dict[str, Any],
        metadata: Metadata | None = None,
        is_coordinator: bool = False,  # noqa: FBT001, FBT002 - as DCP has it
    ) -> None:
        """Make room, by name; raise StateMismatch for a key that chooses nothing."""
        assert metadata is not None  # noqa: S101 - a reader has it
        names = metadata.state_dict_metadata
        if idle := [glob for glob in self._globs if not any(chooses(glob, name) for name in names)]:
            parts = {name.partition(".")[0] for name in names}
            raise StateMismatch(
                f"keys: nothing in the checkpoint is chosen by {some(idle)}; its parts are {some(parts)}"
            )
        self.paths = metadata.planner_data or {}
        self.entries = len(names)
        super().set_up_planner(state_dict, dataclasses.replace(metadata, planner_data=None), is_coordinator)

    def _should_include_key(self, key: str, metadata: Metadata) -> bool:
        del metadata
        return not self._globs or any(chooses(glob, key) for glob in self._globs)
