"""Checkpoints at the command line: looked at, copied, exported, removed. Credentials come from the environment."""

import json
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from enum import StrEnum
from math import prod
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, ProgressColumn, Task, TextColumn
from rich.table import Table
from rich.text import Text

from dcp_contract.checkpoint_info import CheckpointInfo
from dcp_contract.sizes import human_bytes
from dcp_engine.call_options import ProgressCallback
from dcp_engine.errors import EngineError, InvalidOption
from dcp_engine.format.manifest import Manifest, Tensor

if TYPE_CHECKING:
    from dcp_engine.comparing import Difference

SHOWN_TENSORS: Final = 40
PIPE_WIDTH: Final = 4096
_MEBIBYTE: Final = 1 << 20

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


KeysOption = Annotated[list[str] | None, typer.Option(help="What is compared, by name or glob.")]
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
    console = _console()
    console.print(_summary(url, manifest))
    console.print(_tensors(manifest))


@app.command()
def verify(url: Url, output: OutputOption = ViewFormat.TABLE) -> None:
    """Read every byte of a checkpoint and compare it with its digests."""
    from dcp_engine import verify as check  # noqa: PLC0415

    with _shown("verifying", output) as on_progress:
        info = check(url, on_progress=on_progress)
    _tell(f"Verified {printable(url)}", info, output)


@app.command()
def copy(
    source: Url,
    destination: Annotated[str, typer.Argument(help="URL where the copy goes.")],
    *,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a checkpoint that stands there.")] = False,
    check: Annotated[bool, typer.Option("--verify/--no-verify", help="Compare every block on the way.")] = True,
    bandwidth: Annotated[float, typer.Option(help="Mebibytes that are read in a second at most; 0: no limit.")] = 0,
    output: OutputOption = ViewFormat.TABLE,
) -> None:
    """Copy a checkpoint, and commit the copy."""
    from dcp_engine import copy as copied  # noqa: PLC0415

    with _shown("copying", output) as on_progress:
        info = copied(
            source,
            destination,
            overwrite=overwrite,
            verify=check,
            bandwidth=max(1, int(bandwidth * _MEBIBYTE)) if bandwidth else None,
            on_progress=on_progress,
        )
    _tell(f"Copied {printable(source)} to {printable(destination)}", info, output)


@app.command()
def export(
    source: Url,
    destination: Annotated[str, typer.Argument(help="URL of the folder where the export goes.")],
    *,
    dtype: Annotated[str, typer.Option(help="Type that floating-point values get.")] = "",
    keys: Annotated[list[str] | None, typer.Option(help="GLOB=NAME; may be repeated.")] = None,
    select: Annotated[list[str] | None, typer.Option(help="Name or glob; may be repeated.")] = None,
    config: Annotated[list[str] | None, typer.Option(help="File that goes along; may be repeated.")] = None,
    shard_bytes: Annotated[int, typer.Option(help="Bytes of values in one file at most.")] = 5_000_000_000,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a model that stands there.")] = False,
    output: OutputOption = ViewFormat.TABLE,
) -> None:
    """Write a checkpoint's tensors as a folder of safetensors."""
    from dcp_engine import export as exported  # noqa: PLC0415

    with _shown("exporting", output) as on_progress:
        info = exported(
            source,
            destination,
            dtype=dtype or None,
            keys=_table(keys or []) or None,
            select=select or (),
            config_files=config or (),
            shard_bytes=shard_bytes,
            overwrite=overwrite,
            on_progress=on_progress,
        )
    _tell(f"Exported {printable(source)} to {printable(destination)}", info, output)


def _table(lines: Sequence[str]) -> dict[str, str]:
    for line in lines:
        if "=" not in line:
            raise InvalidOption(f"--keys: {line!r} is no GLOB=NAME; write one, such as 'model.*=*'")
    return {glob: name for glob, _, name in (line.partition("=") for line in lines)}


@contextmanager
def _shown(word: str, output: ViewFormat) -> Iterator[ProgressCallback]:
    """Show how far a transfer is."""
    columns = (TextColumn(word), BarColumn(), DownloadColumn(binary_units=True), RateColumn())
    with Progress(*columns, console=Console(stderr=True), disable=output is ViewFormat.JSON) as shown:
        bar = shown.add_task(word, total=None)
        yield lambda done, total: shown.update(bar, completed=done, total=total)


def _tell(done: str, info: CheckpointInfo, output: ViewFormat) -> None:
    if output is ViewFormat.JSON:
        typer.echo(json.dumps(info.to_dict(), indent=2))
        return
    typer.echo(_told(done, info))


@app.command()
def ls(prefix: Url, output: OutputOption = ViewFormat.TABLE) -> None:
    """List what is committed under a prefix."""
    from dcp_engine import list_checkpoints  # noqa: PLC0415

    found = list_checkpoints(prefix)
    if output is ViewFormat.JSON:
        told = [{name: value for name, value in each.to_dict().items() if value != ""} for each in found]
        typer.echo(json.dumps(told, indent=2))
    elif not found:
        typer.echo(f"No checkpoint is committed under {printable(prefix)} as step-<n>.", err=True)
    else:
        _console().print(listed(found))


@app.command()
def diff(first: Url, second: Url, *, key: KeysOption = None, output: OutputOption = ViewFormat.TABLE) -> int:
    """Say in which entries two checkpoints differ; return 0 if in none, 1 if in some, 2 if nobody can tell."""
    from dcp_engine import diff as compare  # noqa: PLC0415

    try:
        found = compare(first, second, keys=key or ())
    except EngineError as error:
        typer.echo(f"{error.reason}: {printable(str(error))}", err=True)
        return 2
    if output is ViewFormat.JSON:
        changed = {name: asdict(change) for name, change in found.changed.items()}
        told = {"onlyFirst": found.only_first, "onlySecond": found.only_second, "changed": changed, "same": found.same}
        typer.echo(json.dumps(told, indent=2))
    else:
        _console().print(differences(found), end="")
    return int(bool(found))


@app.command()
def rm(url: Url, *, save_id: str = "", yes: bool = False) -> int:
    """Remove a checkpoint: the one that was shown, whatever stands there by then."""
    from dcp_engine import delete, find  # noqa: PLC0415

    found = find(url)
    if not yes and found is not None:
        if save_id not in {"", found.save_id}:
            typer.echo(f"{printable(url)} holds save {found.save_id or 'of stock DCP'}, not {save_id}", err=True)
            return 1
        typer.echo(f"{printable(url)}: {described(found)}", err=True)
        if not sys.stdin.isatty():
            typer.echo("Nobody can be asked; to remove it add --yes.", err=True)
            return 2
        if not typer.confirm("Remove it, with all its data?", err=True):
            return 1
    gone = delete(url, save_id or (found.save_id if found is not None else None) or None)
    if gone is None:
        typer.echo(f"{printable(url)}: save {save_id} is not there any more", err=True)
        return 0
    guard = (
        "" if gone.conflict_guard != "BestEffort" else "; the store can't refuse to remove another save made meanwhile"
    )
    typer.echo(f"Removed {printable(url)}: {described(gone)}{guard}")
    return 0


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


def _told(done: str, info: CheckpointInfo) -> str:
    size = f"{human_bytes(info.bytes or 0)} in {info.files} files, {info.tensors} tensors"
    return f"{done}: {size}{f'; {info.verified}' if info.verified else ''}"


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


def _console() -> Console:
    # A file or a pipe has no width: a row is one line there, however long.
    return Console(soft_wrap=True) if sys.stdout.isatty() else Console(soft_wrap=True, width=PIPE_WIDTH)


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
