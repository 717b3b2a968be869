"""The storage engine: DCP checkpoints that are never half there, never silently wrong, at the speed of the wire.

    import dcp_engine
    dcp_engine.save(state, "s3://bucket/run/step-1000")  # on every rank
    dcp_engine.load(state, "s3://bucket/run/step-1000")

Works in any training script and knows nothing of Kubernetes. `copy`, `find`, `inspect`, `list_checkpoints`,
`latest`, `delete`, `probe`, the preflights and `errors` need no torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dcp_engine.background import async_save
    from dcp_engine.cleanup import clean
    from dcp_engine.comparing import Difference, diff
    from dcp_engine.copying import copy
    from dcp_engine.dcp_patch import patched_dcp
    from dcp_engine.deletion import delete
    from dcp_engine.exporting import export
    from dcp_engine.importing import load_safetensors, load_torch
    from dcp_engine.inspection import (
        find,
        inspect,
        preflight_export,
        preflight_import,
        preflight_load,
        preflight_save,
    )
    from dcp_engine.listing import latest, list_checkpoints, whole
    from dcp_engine.loading import load
    from dcp_engine.pending import AsyncSave
    from dcp_engine.probing import probe
    from dcp_engine.process_end import finish_on_sigterm
    from dcp_engine.rank_values import PerRank, per_rank
    from dcp_engine.reading import read
    from dcp_engine.saving import save
    from dcp_engine.transfer.reader import CheckpointReader
    from dcp_engine.transfer.writer import CheckpointWriter
    from dcp_engine.verification import verify
    from dcp_engine.warm_up import warm

_HOMES = {
    "AsyncSave": "pending",
    "CheckpointReader": "transfer.reader",
    "CheckpointWriter": "transfer.writer",
    "Difference": "comparing",
    "PerRank": "rank_values",
    "async_save": "background",
    "clean": "cleanup",
    "copy": "copying",
    "delete": "deletion",
    "diff": "comparing",
    "export": "exporting",
    "find": "inspection",
    "finish_on_sigterm": "process_end",
    "inspect": "inspection",
    "latest": "listing",
    "list_checkpoints": "listing",
    "load": "loading",
    "load_safetensors": "importing",
    "load_torch": "importing",
    "patched_dcp": "dcp_patch",
    "per_rank": "rank_values",
    "preflight_export": "inspection",
    "preflight_import": "inspection",
    "preflight_load": "inspection",
    "preflight_save": "inspection",
    "probe": "probing",
    "read": "reading",
    "save": "saving",
    "verify": "verification",
    "warm": "warm_up",
    "whole": "listing",
}

__all__ = [
    "AsyncSave",
    "CheckpointReader",
    "CheckpointWriter",
    "Difference",
    "PerRank",
    "async_save",
    "clean",
    "copy",
    "delete",
    "diff",
    "export",
    "find",
    "finish_on_sigterm",
    "inspect",
    "latest",
    "list_checkpoints",
    "load",
    "load_safetensors",
    "load_torch",
    "patched_dcp",
    "per_rank",
    "preflight_export",
    "preflight_import",
    "preflight_load",
    "preflight_save",
    "probe",
    "read",
    "save",
    "verify",
    "warm",
    "whole",
]


def __getattr__(name: str) -> Any:  # noqa: ANN401 - any of the above
    """Import what is asked for, so that looking at a checkpoint needs no torch."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
