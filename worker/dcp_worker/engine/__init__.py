"""The storage engine: DCP checkpoints that are never half there, never silently wrong, at the speed of the wire.

    from dcp_worker import engine
    engine.save(state, "s3://bucket/run/step-1000")  # on every rank
    engine.load(state, "s3://bucket/run/step-1000")

Works in any training script and knows nothing of Kubernetes. `find`, `preflight`, `inspect` and `errors` need no torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dcp_worker.engine.api import load, save
    from dcp_worker.engine.asynchronous import AsyncSave, async_save
    from dcp_worker.engine.by_rank import PerRank, per_rank
    from dcp_worker.engine.cleanup import clean
    from dcp_worker.engine.contents import read
    from dcp_worker.engine.ending import finish_on_sigterm
    from dcp_worker.engine.look import find, inspect, preflight
    from dcp_worker.engine.reader import CheckpointReader
    from dcp_worker.engine.start import warm
    from dcp_worker.engine.verification import verify
    from dcp_worker.engine.writer import CheckpointWriter

_HOMES = {
    "AsyncSave": "asynchronous",
    "CheckpointReader": "reader",
    "CheckpointWriter": "writer",
    "PerRank": "by_rank",
    "async_save": "asynchronous",
    "clean": "cleanup",
    "find": "look",
    "finish_on_sigterm": "ending",
    "inspect": "look",
    "load": "api",
    "per_rank": "by_rank",
    "preflight": "look",
    "read": "contents",
    "save": "api",
    "verify": "verification",
    "warm": "start",
}

__all__ = [
    "AsyncSave",
    "CheckpointReader",
    "CheckpointWriter",
    "PerRank",
    "async_save",
    "clean",
    "find",
    "finish_on_sigterm",
    "inspect",
    "load",
    "per_rank",
    "preflight",
    "read",
    "save",
    "verify",
    "warm",
]


def __getattr__(name: str) -> Any:  # noqa: ANN401 - any of the above
    """Import what is asked for, so that looking at a checkpoint needs no torch."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
