"""`async_save`: training goes on while the bytes travel.

The caller is held up only for the copy to host memory. One save at a time is on its way: the next one, and every plain
`save`, waits for it first and raises its error, so that no save overtakes another's commit and no failure is lost. The
collectives of the background run over a gloo group of their own, apart from those of the training.
"""

from collections.abc import Mapping, Sequence
from datetime import timedelta
from os import PathLike
from typing import Any

import torch.distributed as dist
from torch.distributed.checkpoint.planner import SavePlanner

from dcp_contract.checkpoint_info import CheckpointInfo, Origin
from dcp_engine import pending, process_end
from dcp_engine.call_options import Drift, ProgressCallback, SaveOptions, Unloadable
from dcp_engine.pending import AsyncSave
from dcp_engine.ranks import PATIENCE_SECONDS, Ranks
from dcp_engine.saving import SaveCall, refuse_unsavable
from dcp_engine.stateful import state_of
from dcp_engine.stores.protocol import MEMORY_LIMIT
from dcp_engine.torch_internals import tree_leaves
from dcp_engine.transfer import devices, staging


def async_save(  # noqa: PLR0913 - keyword-only, each with its default
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
) -> AsyncSave:
    """Copy the state to host memory, return, and save it in the background.

    Each option is explained at `save`. Collective, as `save` is: every rank calls it, and it returns once every rank
    has its copy. Waits first for an earlier save that is still on its way, and raises its error. Whatever reads a
    checkpoint in this process (`load`, `find`, `inspect`, `verify`, `clean`, both preflights) waits for it, too; a
    `load` or `verify` of the same URL raises its error. A program that ends without a wait ends the save first; an
    error that nobody has seen then makes its exit code 1. For SIGTERM see `finish_on_sigterm`.

    Args:
        state_dict: as for `save`. It may change as soon as `async_save` has returned.
        url: where the checkpoint goes: an fsspec URL or a path.
        overwrite: replace the checkpoint that is committed there; else it is CheckpointExists.
        storage_options: options of the store that are no secret.
        origin: who saves; goes into the manifest.
        step: the training step; goes into the manifest.
        planner: plans what each rank writes, in the thread of the save.
        process_group: the ranks that save; by default all.
        memory_limit: bytes that each rank may hold for parts in flight, beyond the state and its copy.
        patience: seconds that a rank may lag behind the others; after that it counts as hung.
        on_progress: called with (bytes done, bytes in all) of this rank: from any thread, one call at a time, until the
            save has ended, while training goes on.
        keep_replaced: how long the data of what this save replaces are kept.
        no_dist: this process saves by itself, without any collective.
        drift: what becomes of replicas of a tensor that are not equal bit for bit.
        allow: classes, beyond the common ones, that every load of this checkpoint will name in its own `allow`.
        unloadable: what becomes of objects that a load would refuse.

    Returns:
        The save on its way, on every rank; its `wait` returns what was committed, or raises what `save` would.

    Raises:
        EngineError: the state can't be saved or copied, or an earlier background save failed. The same on every rank.
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
    staged: dict[str, Any] = {}
    # What fails on one rank fails on all, so that none of them goes on to another save than the others.
    foreground = Ranks(process_group, patience=patience, no_dist=no_dist)
    foreground.agree("staging", lambda: staged.update(_staged(state_dict, options)))
    # All ranks must make their process groups in the same order, or they wait for one another: so it is made here, and
    # not in the thread.
    ranks = Ranks(process_group, use="background", patience=patience, no_dist=no_dist)
    own_device = devices.own_device()

    def save_staged() -> CheckpointInfo:
        own_device()
        return SaveCall(staged, url, ranks, options, planner).run()

    saving = AsyncSave(url)
    saving.start(save_staged)
    return saving


def _staged(state_dict: Mapping[str, Any], options: SaveOptions) -> dict[str, Any]:
    """Copy the state to host memory, once the save before has ended."""
    pending.finish()
    options.refuse_wrong()
    process_end.watch()
    values = {key: state_of(value) for key, value in state_dict.items()}
    refuse_unsavable(values)
    # The copies are those of tensors as they are once all that is queued on their devices is done.
    used = devices.of(tree_leaves(values))
    devices.synchronize(used)
    staged = staging.copied(values, pinned=any(device.type == "cuda" for device in used))
    devices.synchronize(used)
    return staged
