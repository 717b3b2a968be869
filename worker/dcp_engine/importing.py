"""`load_safetensors` and `load_torch`: what others wrote into a sharded state dict, by the load of checkpoints."""

from collections.abc import Mapping, Sequence
from os import PathLike, fspath
from typing import Any

import torch.distributed as dist
from torch.distributed.checkpoint.planner import LoadPlanner
from torch.distributed.checkpoint.stateful import Stateful

from dcp_contract.checkpoint_info import CheckpointInfo
from dcp_engine.call_options import LoadOptions, ProgressCallback, Strict
from dcp_engine.commit import safetensors_folder, snapshot
from dcp_engine.format import layout
from dcp_engine.loading import LoadCall
from dcp_engine.ranks import PATIENCE_SECONDS, Ranks
from dcp_engine.stores.protocol import MEMORY_LIMIT
from dcp_engine.transfer import torch_file
from dcp_engine.transfer.load_transfer import LoadTransfer
from dcp_engine.transfer.planner import ByNameLoadPlanner


def load_safetensors(
    state_dict: dict[str, Any],
    url: str | PathLike[str],
    *,
    keys: Mapping[str, str] | None = None,
    storage_options: Mapping[str, Any] | None = None,
    process_group: dist.ProcessGroup | None = None,
    memory_limit: int = MEMORY_LIMIT,
    patience: float = PATIENCE_SECONDS,
    on_progress: ProgressCallback | None = None,
    strict: Strict = "asked",
    convert: bool = True,
    no_dist: bool = False,
) -> CheckpointInfo:
    """Load safetensors into a sharded state dict, in place. Collective: every rank calls it, as it calls `load`.

    Each rank reads the bytes of its own shards. The files have no digests: sizes and headers are checked, values are
    not. After an error the content of `state_dict` is undefined.

    Args:
        state_dict: as of `load`: names -> tensors to fill, nested dicts, objects with `load_state_dict`.
        url: the folder, with `model.safetensors`, or an index and the files that it names. The same on every rank, as
            all that follows is, but for `on_progress`.
        keys: globs over the names in the files -> names in the state dict, such as `{"*": "model.*"}`; what none
            matches is left out. The first glob that matches counts. None: the names as they are.
        storage_options: as of `load`, as are the following.
        process_group: the ranks that load.
        memory_limit: bytes that each rank may hold for transfers.
        patience: seconds that a rank may lag behind the others.
        on_progress: called with (bytes done, bytes in all) of this rank.
        strict: with "both" all that the files hold must be asked for, too, within the parts of which anything is.
        convert: convert values to the type of the tensor that they go into, unless they would become others.
        no_dist: this process loads by itself, without any collective.

    Returns:
        Where it was loaded from; `entries` count what was loaded, left out and converted.

    Raises:
        CheckpointNotFound: no safetensors stand at the URL.
        CheckpointCorrupted: a file is missing, cut off, or its header can't be.
        EngineError: another subclass per cause, as of `load`. The same error on every rank.
    """
    options = LoadOptions(storage_options=storage_options, memory_limit=memory_limit, on_progress=on_progress)
    ranks = Ranks(process_group, patience=patience, no_dist=no_dist)
    objects = [key for key, value in state_dict.items() if isinstance(value, Stateful)]
    planner = ByNameLoadPlanner(objects, strict=strict, convert=convert)
    call = _SafetensorsLoad(state_dict, url, ranks, options, planner)
    call.keys = keys
    return call.run()


def load_torch(
    state_dict: dict[str, Any],
    url: str | PathLike[str],
    *,
    keys: Mapping[str, str] | None = None,
    allow: Sequence[type] = (),
    storage_options: Mapping[str, Any] | None = None,
    process_group: dist.ProcessGroup | None = None,
    memory_limit: int = MEMORY_LIMIT,
    patience: float = PATIENCE_SECONDS,
    on_progress: ProgressCallback | None = None,
    strict: Strict = "asked",
    convert: bool = True,
    no_dist: bool = False,
) -> CheckpointInfo:
    """Load a file of `torch.save` into a sharded state dict, in place. Collective: every rank calls it, as `load`.

    Each rank reads the bytes of its own shards. The file runs no code: its pickle is looked at in a process of its own,
    and read as `torch.load(weights_only=True)` reads it. It has no digests: sizes are checked, values are not. After
    an error the content of `state_dict` is undefined.

    Args:
        state_dict: as of `load`: names -> tensors to fill, nested dicts, objects with `load_state_dict`.
        url: the file, written by torch 1.6 or later. The same on every rank, as all that follows is, but for
            `on_progress`.
        keys: globs over the names in the file -> names in the state dict, such as `{"*": "model.*"}`; what none
            matches is left out. The first glob that matches counts. None: the names as they are, nested. A name has
            the keys of nested dicts and lists with dots between them, as DCP names entries.
        allow: classes, beyond the common ones, that objects in the file may be of; each runs what it likes.
        storage_options: as of `load`, as are the following.
        process_group: the ranks that load.
        memory_limit: bytes that each rank may hold for transfers.
        patience: seconds that a rank may lag behind the others.
        on_progress: called with (bytes done, bytes in all) of this rank.
        strict: with "both" all that the file holds must be asked for, too, within the parts of which anything is.
        convert: convert values to the type of the tensor that they go into, unless they would become others.
        no_dist: this process loads by itself, without any collective.

    Returns:
        Where it was loaded from; `entries` count what was loaded, left out and converted.

    Raises:
        CheckpointNotFound: no file stands at the URL.
        CheckpointCorrupted: it is none of torch's, is cut off, or would do harm.
        InvalidOption: it holds classes that are not allowed, or tensors that are no plain ones.
        EngineError: another subclass per cause, as of `load`. The same error on every rank.
    """
    folder, name = layout.file_place(fspath(url))
    options = LoadOptions(
        storage_options=storage_options, memory_limit=memory_limit, on_progress=on_progress, allow=allow
    )
    ranks = Ranks(process_group, patience=patience, no_dist=no_dist)
    objects = [key for key, value in state_dict.items() if isinstance(value, Stateful)]
    planner = ByNameLoadPlanner(objects, strict=strict, convert=convert)
    call = _TorchFileLoad(state_dict, folder, ranks, options, planner)
    call.name, call.keys = name, keys
    return call.run()


def load_weights(
    state_dict: dict[str, Any], url: str, planner: LoadPlanner, options: LoadOptions, *, file: bool, patience: float
) -> None:
    """Load a model's weights into `{"model": ...}`, whoever wrote them. Collective.

    Args:
        state_dict: the model's own, sharded.
        url: a folder of safetensors, whose names are the model's own; or a file of `torch.save`, of a model's state
            dict or of a dict with one at `model`.
        planner: plans what each rank reads.
        options: how it is loaded.
        file: whether it is the file.
        patience: seconds that a rank may lag behind the others.

    Raises:
        EngineError: as of `load_safetensors` and `load_torch`.
    """
    ranks = Ranks(None, patience=patience)
    if not file:
        folder = _SafetensorsLoad(state_dict, url, ranks, options, planner)
        folder.keys = {"*": "model.*"}
        folder.run()
        return
    place, name = layout.file_place(url)
    call = _TorchFileLoad(state_dict, place, ranks, options, planner)
    call.name, call.below = name, "model"
    call.run()


class _TorchFileLoad(LoadCall):
    """A load whose snapshot is what a file's pickle says."""

    keys: Mapping[str, str] | None = None
    name: str = ""
    below: str = ""
    """Where all of the file's tensors go, if it has no such key itself; then what is below that."""

    def _read_snapshot(self) -> snapshot.Snapshot:
        return torch_file.read(self._opened(), self.name, self.keys, self.options.allow, below=self.below)

    def _transfer_of(self, found: snapshot.Snapshot) -> LoadTransfer:
        assert isinstance(found, torch_file.TorchSnapshot)  # noqa: S101 - it read it
        return torch_file.TorchFileTransfer(self._opened(), self.options, found, self.name)


class _SafetensorsLoad(LoadCall):
    """A load whose snapshot is put together from the files' headers."""

    keys: Mapping[str, str] | None = None

    def _read_snapshot(self) -> snapshot.Snapshot:
        return safetensors_folder.read(self._opened(), self.keys)

    def _transfer_of(self, found: snapshot.Snapshot) -> LoadTransfer:
        assert isinstance(found, safetensors_folder.FolderSnapshot)  # noqa: S101 - it read it
        anchor = safetensors_folder.anchor(found)
        return LoadTransfer(self._opened(), self.options, found, anchor, seen=found.versions)
