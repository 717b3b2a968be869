"""What a caller of `save`, `async_save` or `load`, or of DCP's writer and reader, may choose: each option, once.

The functions take these as keywords, gather them here, and hand them on as one value that nothing changes. What says
which ranks take part (`process_group`, `patience`, `no_dist`) is no option of a transfer: it makes a `Ranks`. `stores`
has options of its own, those of a store, which stand in `storage_options` here.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from os import PathLike
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

ExportFormat: TypeAlias = Literal["safetensors", "torch"]
"""`safetensors`: a folder with an index. `torch`: one file of `torch.save`."""


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

    def refuse_wrong(self) -> None:
        """Refuse values that are no options; not done when they are made, since one rank alone would raise there.

        Raises:
            InvalidOption: it names the option.
        """
        _check_shared(self)
        check_age("keep_replaced", self.keep_replaced)
        if self.step is not None and (not isinstance(self.step, int) or isinstance(self.step, bool)):
            raise InvalidOption(f"step: {self.step!r} is no whole number; write one, or None")
        if not isinstance(self.origin, Origin | None):
            raise InvalidOption(f"origin: a {type(self.origin).__name__} is no Origin of dcp_contract.checkpoint_info")
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

    def refuse_wrong(self) -> None:
        """Refuse values that are no options; not done when they are made, since one rank alone would raise there.

        Raises:
            InvalidOption: it names the option.
        """
        _check_shared(self)


@dataclass(frozen=True, kw_only=True)
class CopyOptions:
    """How a checkpoint is copied."""

    overwrite: bool = False
    """Replace the checkpoint that is committed at the destination, if there is one; else it is CheckpointExists."""
    verify: bool = True
    """Compare every file with its digests on the way."""
    memory_limit: int = MEMORY_LIMIT
    """Bytes that may be held for what is on its way."""
    bandwidth: int | None = None
    """Bytes per second that are read at most; None: as fast as it goes."""
    keep_replaced: timedelta | None = None
    """How long the data of what the copy replaces are kept. None: as long as the destination's store says."""
    on_progress: ProgressCallback | None = None
    """Told of the bytes that have been copied."""

    def refuse_wrong(self) -> None:
        """Refuse values that are no options.

        Raises:
            InvalidOption: it names the option.
        """
        check_age("keep_replaced", self.keep_replaced)
        _check_bytes("memory_limit", self.memory_limit, "256 << 20")
        if self.bandwidth is not None:
            _check_bytes("bandwidth", self.bandwidth, "100 << 20")


@dataclass(frozen=True, kw_only=True)
class ExportOptions:
    """How a checkpoint is exported."""

    format: ExportFormat = "safetensors"
    """What is written."""
    dtype: str | None = None
    """The type that floating-point values get, as `bfloat16`. None: that which they have."""
    keys: Mapping[str, str] | None = None
    """Globs -> new names, see `format.key_mapping`. None: the model's, without `model.`, or all if there is no such."""
    select: Sequence[str] = ()
    """Globs over the checkpoint's names. Empty: all."""
    shard_bytes: int = 5_000_000_000
    """Bytes of values in one file at most, unless one tensor is larger."""
    config_files: Sequence[str | PathLike[str]] = ()
    """Small files that are copied beside the index, by path or URL."""
    overwrite: bool = False
    """Replace the export that stands at the destination."""
    check: bool = True
    """Compare every byte with its digest before it goes on."""
    allow: Sequence[type] = ()
    """Classes, beyond the common ones, that the checkpoint's objects may be of."""
    memory_limit: int = MEMORY_LIMIT
    """Bytes that may be held."""
    source_options: Mapping[str, Any] | None = None
    """Options of the source's store, by their neutral names."""
    storage_options: Mapping[str, Any] | None = None
    """Options of the destination's store, by their neutral names."""
    origin: Origin | None = None
    """Who exports; goes into the index."""
    on_progress: ProgressCallback | None = None
    """Told of the bytes that were written."""

    def refuse_wrong(self) -> None:
        """Refuse values that are no options.

        Raises:
            InvalidOption: it names the option.
        """
        self.of_load().refuse_wrong()
        if self.format not in get_args(ExportFormat):
            raise InvalidOption.none_of("format", self.format, ExportFormat)
        if self.config_files and self.format != "safetensors":
            raise InvalidOption("config_files: a torch file has nothing beside it; leave them out")
        if not isinstance(self.storage_options, Mapping | None):
            raise InvalidOption(f"storage_options: a {type(self.storage_options).__name__} is no mapping")
        if not isinstance(self.shard_bytes, int) or isinstance(self.shard_bytes, bool) or self.shard_bytes < 1:
            raise InvalidOption(f"shard_bytes: {self.shard_bytes!r} is no whole number of bytes from 1 on")
        if not isinstance(self.keys, Mapping | None):
            raise InvalidOption(f"keys: a {type(self.keys).__name__} is no mapping of globs to names")
        if isinstance(self.config_files, str | PathLike):
            raise InvalidOption(f"config_files: {self.config_files!r} is no sequence; write [{self.config_files!r}]")

    def of_load(self) -> LoadOptions:
        """Return how the source is read."""
        return LoadOptions(
            storage_options=self.source_options, check=self.check, allow=self.allow, memory_limit=self.memory_limit
        )


def check_age(name: str, age: timedelta | None) -> None:
    """Refuse what is no time, or less than none.

    Raises:
        InvalidOption: it names the option.
    """
    if not isinstance(age, timedelta | None):
        raise InvalidOption(f"{name}: {age!r} is no timedelta; write one, such as timedelta(hours=1)")
    if age is not None and age < timedelta(0):
        raise InvalidOption(f"{name}: {age} is less than nothing")


def _check_shared(options: SaveOptions | LoadOptions) -> None:
    # No value of the store's options is repeated: it may be secret.
    if not isinstance(options.storage_options, Mapping | None):
        raise InvalidOption(f"storage_options: a {type(options.storage_options).__name__} is no mapping")
    _check_bytes("memory_limit", options.memory_limit, "256 << 20")
    allow = options.allow
    if not isinstance(allow, Iterable) or not all(isinstance(each, type) for each in allow):
        raise InvalidOption(f"allow: {allow!r} is no sequence of classes; write the classes, not their names")
    if options.on_progress is not None and not callable(options.on_progress):
        raise InvalidOption(f"on_progress: a {type(options.on_progress).__name__} can't be called")


def _check_bytes(name: str, count: object, example: str) -> None:
    if not isinstance(count, int) or isinstance(count, bool) or count < 1:
        raise InvalidOption(f"{name}: {count!r} is no whole number of bytes from 1 on; write one, such as {example}")
