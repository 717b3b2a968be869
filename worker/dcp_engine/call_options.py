"""What a caller of `save`, `async_save` or `load`, or of DCP's writer and reader, may choose: each option, once.

The functions take these as keywords, gather them here, and hand them on as one value that nothing changes. What says
which ranks take part (`process_group`, `patience`, `no_dist`) is no option of a transfer: it makes a `Ranks`. `stores`
has options of its own, those of a store, which stand in `storage_options` here.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Literal, TypeAlias, get_args

from dcp_contract.checkpoint_info import Origin
from dcp_engine.errors import InvalidOption
from dcp_engine.stores.protocol import MEMORY_LIMIT

ProgressCallback: TypeAlias = Callable[[int, int], None]
"""Called with (bytes done, bytes in all) of this rank, from any thread, one call at a time; must be cheap."""
Drift: TypeAlias = Literal["warn", "refuse", "ignore"]
"""What a save does about replicas of one tensor that differ between ranks; with `ignore` they are not compared."""
Unloadable: TypeAlias = Literal["warn", "refuse"]
"""What a save does about objects of classes that a load would refuse."""
Strict: TypeAlias = Literal["asked", "both"]
"""`asked`: all that is asked for must be there, as under DCP. `both`: and all that is there must be asked for."""


@dataclass(frozen=True, kw_only=True)
class SaveOptions:
    """How a state is saved; the same on every rank, but for `on_progress`."""

    overwrite: bool = False
    """Replace the checkpoint that is committed at the URL, if there is one; else it is CheckpointExists."""
    storage_options: Mapping[str, Any] | None = None
    """Options of the store that are no secret, by their neutral names (`dcp_contract.storage_options`)."""
    origin: Origin | None = None
    """Who saves; goes into the manifest."""
    step: int | None = None
    """The training step, counted in steps; goes into the manifest."""
    memory_limit: int = MEMORY_LIMIT
    """Bytes that each rank may hold for parts in flight, beyond the state itself."""
    on_progress: ProgressCallback | None = None
    """Told of the bytes that this rank has written."""
    keep_replaced: timedelta | None = None
    """How long the data of what this save replaces are kept for those who read them. None: as long as the store says,
    an hour on object stores and no time on file systems."""
    drift: Drift = "warn"
    """What becomes of replicas of a tensor that are not equal bit for bit."""
    allow: Sequence[type] = ()
    """Classes, beyond the common ones, that every load of this checkpoint will name in its `allow`."""
    unloadable: Unloadable = "warn"
    """What becomes of objects that no load would take."""

    def check(self) -> None:
        """Refuse values that are no options; not done when they are made, since one rank alone would raise there.

        Raises:
            InvalidOption: it names the option.
        """
        if self.keep_replaced is not None and self.keep_replaced < timedelta(0):
            raise InvalidOption(f"keep_replaced: {self.keep_replaced} is less than nothing")
        if self.unloadable not in get_args(Unloadable):
            raise InvalidOption.none_of("unloadable", self.unloadable, Unloadable)
        if self.drift not in get_args(Drift):
            raise InvalidOption.none_of("drift", self.drift, Drift)


@dataclass(frozen=True, kw_only=True)
class LoadOptions:
    """How a checkpoint is loaded; the same on every rank, but for `on_progress`."""

    storage_options: Mapping[str, Any] | None = None
    """Options of the store that are no secret, by their neutral names (`dcp_contract.storage_options`)."""
    check: bool = True
    """Compare every byte with its digest before it reaches a tensor."""
    allow: Sequence[type] = ()
    """Classes, beyond the common ones, that entries which are no tensors may hold; each runs what it likes."""
    memory_limit: int = MEMORY_LIMIT
    """Bytes that each rank may hold for transfers, beyond the state itself."""
    on_progress: ProgressCallback | None = None
    """Told of the bytes that this rank has read."""
