"""`inspect` and `verify`: a checkpoint looked at from the command line. Credentials come from the environment."""

import json
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime
from enum import StrEnum
from math import prod
from typing import Annotated, Any, Final

import typer
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, ProgressColumn, Task, TextColumn
from rich.table import Table
from rich.text import Text

from dcp_contract.checkpoint_info import CheckpointInfo
from dcp_contract.sizes import human_bytes
from dcp_engine.errors import EngineError, InvalidOption
from dcp_engine.format.manifest import Manifest, Tensor

SHOWN_TENSORS: Final = 40

app = typer.Typer(add_completion=False, no_args_is_help=True)
Url = Annotated[str, typer.Argument(help="URL of the checkpoint, such as s3://bucket/run/step-1000.")]


class ViewFormat(StrEnum):
    """Forms of what `inspect` and `verify` print."""

    TABLE = "table"
    JSON = "json"


class RateColumn(ProgressColumn):
    """Bytes per second; rich's own column counts in powers of ten."""

    def render(self, task: Task) -> Text:
        """Return the rate of a task; nothing as long as it has none."""
        rate = task.finished_speed or task.speed
        return Text(f"{human_bytes(rate)}/s" if rate else "")


OutputOption = Annotated[ViewFormat, typer.Option("-o", "--output", help="table or json.")]


def run(arguments: Sequence[str]) -> int:
    """Run one command; return 0, 1 for a checkpoint that is not well, or 2 for bad input."""
    try:
        result = app(args=list(arguments), prog_name="dcp", standalone_mode=False)
    except EngineError as error:
        typer.echo(f"{error.reason}: {printable(str(error))}", err=True)
        return 2 if isinstance(error, InvalidOption) else 1
    except typer.Abort:
        return 130
    except Exception as error:
        # Click's usage errors know their own form and exit code; anything else is a bug and shows its traceback.
        if not hasattr(error, "exit_code"):
            raise
        if hasattr(error, "show"):
            error.show()
        return int(error.exit_code)
    return result if isinstance(result, int) else 0


@app.command()
def inspect(url: Url, output: OutputOption = ViewFormat.TABLE) -> None:
    """Say what stands at a URL, from its manifest."""
    from dcp_engine import inspect as look  # noqa: PLC0415 - by then the arguments are known to be good

    manifest = look(url)
    if output is ViewFormat.JSON:
        typer.echo(json.dumps(_document(url, manifest), indent=2, default=str))
        return
    console = Console(soft_wrap=True)
    console.print(_summary(url, manifest))
    console.print(_tensors(manifest))


@app.command()
def verify(url: Url, output: OutputOption = ViewFormat.TABLE) -> None:
    """Read every byte of a checkpoint and compare it with its digests."""
    from dcp_engine import verify as check  # noqa: PLC0415

    columns = (TextColumn("verifying"), BarColumn(), DownloadColumn(binary_units=True), RateColumn())
    with Progress(*columns, console=Console(stderr=True), disable=output is ViewFormat.JSON) as shown:
        bar = shown.add_task("verify", total=None)
        info = check(url, on_progress=lambda done, total: shown.update(bar, completed=done, total=total))
    if output is ViewFormat.JSON:
        typer.echo(json.dumps(info.to_dict(), indent=2))
    else:
        typer.echo(_verified(url, info))


def _verified(url: str, info: CheckpointInfo) -> str:
    size = f"{human_bytes(info.bytes or 0)} in {info.files} files, {info.tensors} tensors"
    return f"Verified {printable(url)}: {size}; {info.verified}"


def _summary(url: str, manifest: Manifest) -> Table:
    dtypes = Counter(tensor.dtype for tensor in manifest.tensors.values() if tensor.dtype is not None)
    rows: dict[str, Any] = {
        "URL": url,
        "Save": manifest.save_id or "stock DCP, without a manifest",
        "Made by": manifest.origin,
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


def _tensors(manifest: Manifest) -> Table:
    table = Table("Name", "Type", "Shape", "Size", "Chunks", box=None, pad_edge=False)
    for name, tensor in [*manifest.tensors.items()][:SHOWN_TENSORS]:
        shape = "x".join(map(str, tensor.shape)) or "scalar"
        kind, shape = (tensor.dtype, shape) if tensor.dtype is not None else ("object", "")
        table.add_row(*map(_text, (name, kind, shape, human_bytes(_size(tensor)), str(len(tensor.chunks)))))
    rest = len(manifest.tensors) - SHOWN_TENSORS
    if rest > 0:
        table.caption = f"and {rest} more; -o json shows all"
    return table


def printable(text: str) -> str:
    """Return text whose control characters are spelled out: whoever saved a checkpoint chose what is in it."""
    return "".join(each if each.isprintable() else each.encode("unicode_escape").decode() for each in text)


def _text(text: str) -> Text:
    """Return what is shown as it is: a name is no markup."""
    return Text(printable(text))


def _document(url: str, manifest: Manifest) -> dict[str, Any]:
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
