"""What the commands print of checkpoints, whose names somebody else chose."""

import sys
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime
from math import prod
from typing import TYPE_CHECKING, Any, Final

from rich.console import Console
from rich.progress import ProgressColumn, Task
from rich.table import Table
from rich.text import Text

from dcp_contract.checkpoint_info import CheckpointInfo, Provenance
from dcp_contract.sizes import human_bytes
from dcp_engine.format.manifest import Manifest, Tensor

if TYPE_CHECKING:
    from dcp_engine.comparing import Difference

SHOWN_TENSORS: Final = 40
PIPE_WIDTH: Final = 4096


class RateColumn(ProgressColumn):
    """Bytes per second; rich's own column counts in powers of ten."""

    def render(self, task: Task) -> Text:
        """Return the rate of a task; nothing as long as it has none."""
        rate = task.finished_speed or task.speed
        return Text(f"{human_bytes(rate)}/s" if rate else "")


def listed(found: Sequence[CheckpointInfo]) -> Table:
    """Return a row for each checkpoint; ids and URLs are whole, since they are what the next command takes."""
    table = Table("Step", "Saved", box=None, pad_edge=False)
    table.add_column("Save id", no_wrap=True, min_width=32)
    table.add_column("URL", overflow="fold")
    for each in found:
        saved = f"{each.created_time:%Y-%m-%d %H:%M:%S} UTC" if each.created_time is not None else ""
        table.add_row(*map(_text, (str(each.step), saved, each.save_id or "by stock DCP", each.url)))
    return table


def described(info: CheckpointInfo) -> str:
    """Return what one would know of a checkpoint before it goes."""
    told = [f"save {info.save_id}" if info.save_id else "by stock DCP"]
    told += [f"step {info.step}"] if info.step is not None else []
    told += [human_bytes(info.bytes)] if info.bytes else []
    told += [f"made by {printable(str(info.origin))}"] if info.origin is not None else []
    return ", ".join([*told, *filter(None, [_age(info.created_time)])])


def differences(found: "Difference") -> Table:
    """Return a row for each entry that is not alike, and a count of those that are."""
    table = Table("Name", "First", "Second", "Differing", "Largest", "Relative", box=None, pad_edge=False)
    rows: dict[str, tuple[str, ...]] = dict.fromkeys(found.only_first, ("there", "missing", "", "", ""))
    rows |= dict.fromkeys(found.only_second, ("missing", "there", "", "", ""))
    for name, change in found.changed.items():
        counted = f"{change.differing} of {change.elements}" if change.elements else ""
        measures = ("" if each is None else f"{each:.3g}" for each in (change.largest, change.relative))
        rows[name] = (change.first, change.second, counted, *measures)
    for name in sorted(rows):
        table.add_row(*map(_text, (name, *rows[name])))
    table.caption = f"{len(rows)} differ, {found.same} are alike"
    return table


def told(done: str, info: CheckpointInfo) -> str:
    """Return one line of what was done with a checkpoint."""
    size = f"{human_bytes(info.bytes or 0)} in {info.files} files, {info.tensors} tensors"
    return f"{done}: {size}{f'; {info.verified}' if info.verified else ''}"


def summary(url: str, manifest: Manifest) -> Table:
    """Return what a manifest says of a checkpoint as a whole."""
    dtypes = Counter(tensor.dtype for tensor in manifest.tensors.values() if tensor.dtype is not None)
    rows: dict[str, Any] = {
        "URL": url,
        "Save": manifest.save_id or "stock DCP, without a manifest",
        "Made by": manifest.origin,
        "In cluster": manifest.origin.cluster_id if isinstance(manifest.origin, Provenance) else "",
        "Age": _age(manifest.created_time),
        "Step": manifest.step,
        "World size": manifest.world_size,
        "Torch": manifest.torch_version,
        "Size": f"{human_bytes(sum(file.size for file in manifest.files))} in {len(manifest.files)} files",
        "Tensors": f"{sum(dtypes.values())} ({', '.join(f'{count} {name}' for name, count in sorted(dtypes.items()))})",
        "Parameters": f"{_parameters(manifest):,}",
        "Conflict guard": manifest.conflict_guard,
    }
    table = Table(show_header=False, box=None, pad_edge=False)
    for name, value in rows.items():
        if value not in {None, ""}:
            table.add_row(name, _text(str(value)))
    return table


def tensors(manifest: Manifest) -> Table:
    """Return a row for each of the first tensors."""
    table = Table("Name", "Type", "Shape", "Size", "Chunks", box=None, pad_edge=False)
    for name, tensor in [*manifest.tensors.items()][:SHOWN_TENSORS]:
        shape = "x".join(map(str, tensor.shape)) or "scalar"
        kind, shape = (tensor.dtype, shape) if tensor.dtype is not None else ("object", "")
        table.add_row(*map(_text, (name, kind, shape, human_bytes(_size(tensor)), str(len(tensor.chunks)))))
    rest = len(manifest.tensors) - SHOWN_TENSORS
    if rest > 0:
        table.caption = f"and {rest} more; -o json shows all"
    return table


def console() -> Console:
    """Return where tables are printed."""
    # A file or a pipe has no width: a row is one line there, however long.
    return Console(soft_wrap=True) if sys.stdout.isatty() else Console(soft_wrap=True, width=PIPE_WIDTH)


def printable(text: str) -> str:
    """Return text whose control characters are spelled out: whoever saved a checkpoint chose what is in it."""
    return "".join(each if each.isprintable() else each.encode("unicode_escape").decode() for each in text)


def _text(text: str) -> Text:
    """Return what is shown as it is: a name is no markup."""
    return Text(printable(text))


def document(url: str, manifest: Manifest) -> dict[str, Any]:
    """Return what `inspect -o json` says."""
    return {
        "url": url,
        "saveId": manifest.save_id,
        "origin": manifest.origin.to_dict() if manifest.origin is not None else None,
        "step": manifest.step,
        "worldSize": manifest.world_size,
        "torchVersion": manifest.torch_version,
        "createdTime": manifest.created_time.isoformat() if manifest.created_time is not None else None,
        "conflictGuard": manifest.conflict_guard,
        "bytes": sum(file.size for file in manifest.files),
        "parameters": _parameters(manifest),
        "files": [{"path": file.path, "size": file.size} for file in manifest.files],
        "tensors": {
            name: {
                "dtype": tensor.dtype,
                "shape": list(tensor.shape),
                "bytes": _size(tensor),
                "chunks": len(tensor.chunks),
            }
            for name, tensor in manifest.tensors.items()
        },
    }


def _parameters(manifest: Manifest) -> int:
    """Values of the model's tensors; tied ones count as often as they are named."""
    return sum(
        prod(tensor.shape)
        for name, tensor in manifest.tensors.items()
        if tensor.dtype is not None and name.startswith("model.")
    )


def _size(tensor: Tensor) -> int:
    return sum(chunk.length for chunk in tensor.chunks)


def _age(created: datetime | None) -> str:
    if created is None:
        return ""
    seconds = int((datetime.now(UTC) - created).total_seconds())
    for unit, length in (("d", 86_400), ("h", 3_600), ("m", 60)):
        if seconds >= length:
            return f"{seconds // length}{unit}, made {created:%Y-%m-%d %H:%M:%S} UTC"
    return f"{seconds}s, made {created:%Y-%m-%d %H:%M:%S} UTC"
