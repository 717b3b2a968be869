"""Checkpoints at the command line: looked at, copied, exported, removed. Credentials come from the environment."""

import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from enum import StrEnum
from typing import Annotated, Final

import typer
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn

from dcp_contract.checkpoint_info import CheckpointInfo
from dcp_engine.call_options import ProgressCallback
from dcp_engine.errors import EngineError, InvalidOption
from dcp_worker.cli import printed
from dcp_worker.cli.printed import printable

_MEBIBYTE: Final = 1 << 20

app = typer.Typer(add_completion=False, no_args_is_help=True)
Url = Annotated[str, typer.Argument(help="URL of the checkpoint, such as s3://bucket/run/step-1000.")]


class ViewFormat(StrEnum):
    """Forms of what `inspect` and `verify` print."""

    TABLE = "table"
    JSON = "json"


class WrittenFormat(StrEnum):
    """What `export` writes."""

    FOLDER = "safetensors"
    FILE = "torch"


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
        typer.echo(json.dumps(printed.document(url, manifest), indent=2, default=str))
        return
    console = printed.console()
    console.print(printed.summary(url, manifest))
    console.print(printed.tensors(manifest))


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
    destination: Annotated[str, typer.Argument(help="URL of the folder, or the torch file, that is written.")],
    *,
    format_: Annotated[WrittenFormat, typer.Option("--format", help="safetensors or torch.")] = WrittenFormat.FOLDER,
    dtype: Annotated[str, typer.Option(help="Type that floating-point values get.")] = "",
    keys: Annotated[list[str] | None, typer.Option(help="GLOB=NAME; may be repeated.")] = None,
    select: Annotated[list[str] | None, typer.Option(help="Name or glob; may be repeated.")] = None,
    config: Annotated[list[str] | None, typer.Option(help="File that goes along; may be repeated.")] = None,
    shard_bytes: Annotated[int, typer.Option(help="Bytes of values in one file at most.")] = 5_000_000_000,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a model that stands there.")] = False,
    output: OutputOption = ViewFormat.TABLE,
) -> None:
    """Write a checkpoint as a folder of safetensors, or as a file of torch.save."""
    from dcp_engine import export as exported  # noqa: PLC0415

    with _shown("exporting", output) as on_progress:
        info = exported(
            source,
            destination,
            format=format_.value,
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
    columns = (TextColumn(word), BarColumn(), DownloadColumn(binary_units=True), printed.RateColumn())
    with Progress(*columns, console=Console(stderr=True), disable=output is ViewFormat.JSON) as shown:
        bar = shown.add_task(word, total=None)
        yield lambda done, total: shown.update(bar, completed=done, total=total)


def _tell(done: str, info: CheckpointInfo, output: ViewFormat) -> None:
    if output is ViewFormat.JSON:
        typer.echo(json.dumps(info.to_dict(), indent=2))
        return
    typer.echo(printed.told(done, info))


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
        printed.console().print(printed.listed(found))


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
        printed.console().print(printed.differences(found), end="")
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
        typer.echo(f"{printable(url)}: {printed.described(found)}", err=True)
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
    typer.echo(f"Removed {printable(url)}: {printed.described(gone)}{guard}")
    return 0
