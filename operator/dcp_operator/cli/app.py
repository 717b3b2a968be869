"""The command line, `dcp`: run Checkpoints on this machine, check manifests, look into stores.

Exit codes: 0 all well, 1 a Checkpoint did not succeed, 2 input that can't be run, 128 and the signal's number where one
stopped it: 130 for Ctrl-C, 143 for SIGTERM.
"""

import contextlib
import importlib.util
import json
import os
import re
import sys
from collections.abc import Iterable
from enum import StrEnum
from typing import Annotated, Any, Final, NoReturn

import typer
import yaml
from rich.console import Console
from rich.table import Table

from dcp_operator.api.pod.rules import PodSecurity
from dcp_operator.api.site import CLUSTER, LOCAL, Site
from dcp_operator.api.storage_url import protocol, url_problems
from dcp_operator.local import documents, table
from dcp_operator.local.documents import STDIN, Documents, InputError
from dcp_operator.local.run import run_all, succeeded
from dcp_operator.local.view import view

BAD_INPUT: Final = 2
PIPE_WIDTH: Final = 4096

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Distributed PyTorch checkpoints: the manifests that the operator runs on a cluster, on this machine.",
)

Files = Annotated[
    list[str],
    typer.Option(
        "-f", "--filename", help="YAML or JSON file, a folder of such files, or - for standard input. May be repeated."
    ),
]
Url = Annotated[str, typer.Argument(help="URL of a checkpoint, such as s3://bucket/run/step-1000, or a path.")]

Prefix = Annotated[
    str, typer.Argument(help="Where the checkpoints of a run stand, such as s3://bucket/run, or a path.")
]


class Output(StrEnum):
    """How results are printed."""

    TABLE = "table"
    WIDE = "wide"
    YAML = "yaml"
    JSON = "json"


class LookOutput(StrEnum):
    """How a look at a URL is printed."""

    TABLE = "table"
    JSON = "json"


Look = Annotated[LookOutput, typer.Option("-o", "--output", help="table or json.")]


@app.command()
def run(
    files: Files,
    *,
    output: Annotated[
        Output,
        typer.Option("-o", "--output", help="table, wide, or the objects with their status as yaml or json."),
    ] = Output.TABLE,
    rehearse: Annotated[bool, typer.Option("--rehearse", help="List what would run, and run nothing.")] = False,
    verbose: Annotated[
        bool, typer.Option("-v", "--verbose", help="Show what the ranks print, as they print it.")
    ] = False,
) -> None:
    """Run every Checkpoint of the files on this machine, one after the other, in the order given. No series is run.

    One that fails does not keep the next from running: the exit code is 1 then, and a later one that needs it fails by
    itself. Ctrl-C stops the ranks and says so in the status; a second one kills them.

    An entrypoint is imported from PYTHONPATH or an installed package, else from the current folder, else from the
    manifest's own folder. Credentials come from a Secret in the files where credentialsSecretRef names one, else from
    the environment (AWS_ACCESS_KEY_ID, AWS_ENDPOINT_URL and so on); AWS_PROFILE is not read.
    """
    found = _read(files, LOCAL)
    found.notes += [f"{each.place}: CheckpointSeries left out, only a cluster runs one" for each in found.series]
    if not found.checkpoints:
        _refuse([*found.notes, "no Checkpoint to run"])
    if rehearse:
        if output in {Output.YAML, Output.JSON}:
            _show([dict(source.body) for source in found.checkpoints], output)
        else:
            _print(table.rehearsal([source.checkpoint for source in found.checkpoints]))
        return
    _need_worker()
    console = Console(stderr=True)
    with view(console) as shown:
        for note in found.notes:
            shown.say(note)
        finished, interrupted = run_all(found, shown, verbose=verbose)
    _show(finished, output)
    if interrupted is not None:
        raise typer.Exit(128 + interrupted)
    if not all(succeeded(body) for body in finished):
        raise typer.Exit(1)


@app.command()
def validate(
    files: Files,
    *,
    for_local: Annotated[bool, typer.Option("--local", help="Check for `dcp run` instead of for a cluster.")] = False,
    pod_security: Annotated[
        PodSecurity,
        typer.Option(help="Check for a cluster whose operator judges worker pods, or leaves that to their namespace."),
    ] = PodSecurity.RESTRICTED,
) -> None:
    """Check manifests without running anything. Each problem is one line that names the field and the fix."""
    found = _checked(files, LOCAL if for_local else CLUSTER.model_copy(update={"pod_security": pod_security}))
    for note in found.notes:
        typer.echo(note, err=True)
    purpose = "for `dcp run`" if for_local else "for a cluster"
    for source in found.checkpoints:
        typer.echo(f"{source.place}: Checkpoint {source.title} is valid {purpose}")
    for each in found.series:
        typer.echo(f"{each.place}: CheckpointSeries {each.series.name} is valid {purpose}")


@app.command()
def inspect(url: Url, output: Look = LookOutput.TABLE) -> None:
    """Say what stands at a URL: step, world size, tensors, sizes, origin, age. Needs the worker extra."""
    _worker("inspect", url, "-o", output)


@app.command()
def verify(url: Url, output: Look = LookOutput.TABLE) -> None:
    """Read every byte of a checkpoint and compare it with its digests. Needs the worker extra."""
    _worker("verify", url, "-o", output)


@app.command()
def copy(
    source: Url,
    destination: Annotated[str, typer.Argument(help="URL or path where the copy goes.")],
    *,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace a checkpoint that stands at the destination.")
    ] = False,
    check: Annotated[
        bool, typer.Option("--verify/--no-verify", help="Compare every block with its digest on the way.")
    ] = True,
    bandwidth: Annotated[
        float, typer.Option(help="Mebibytes that are read in a second at most; 0 for as many as it takes.", min=0)
    ] = 0,
    output: Look = LookOutput.TABLE,
) -> None:
    """Copy a checkpoint, and commit the copy in one step. Needs the worker extra.

    The copy is the same save, with the id, the step and the manifest of the source. A copy that was cut short is run
    again: what it has left whole is not moved again. Both stores are reached with the environment's credentials.
    """
    options = ["--bandwidth", str(bandwidth), "-o", output]
    options += ["--overwrite"] if overwrite else []
    options += [] if check else ["--no-verify"]
    _worker("copy", source, destination, *options, urls=2)


@app.command()
def ls(prefix: Prefix, output: Look = LookOutput.TABLE) -> None:
    """List what is committed under a prefix as step-<n>, the highest step first. Needs the worker extra."""
    _worker("ls", prefix, "-o", output)


@app.command()
def diff(
    first: Url,
    second: Annotated[str, typer.Argument(help="URL of the checkpoint that it is compared with, or a path.")],
    *,
    keys: Annotated[
        list[str] | None,
        typer.Option(
            "-k", "--key", help="What is compared: model, model.layers.0.weight, '*.weight'. May be repeated."
        ),
    ] = None,
    output: Look = LookOutput.TABLE,
) -> None:
    """Say in which entries two checkpoints differ, and by how much, however each is sharded. Needs the worker extra.

    Exit codes: 0 they are alike, 1 they differ, 2 they could not be compared.
    """
    _worker("diff", first, second, *(each for key in keys or () for each in ("--key", key)), "-o", output, urls=2)


@app.command()
def rm(
    url: Url,
    *,
    save_id: Annotated[
        str, typer.Option(help="Remove this save, as `dcp ls` names it, and none that was made there since.")
    ] = "",
    yes: Annotated[bool, typer.Option("-y", "--yes", help="Do not ask.")] = False,
) -> None:
    """Remove a checkpoint, whole: .metadata first, then its data. Shows it and asks. Needs the worker extra."""
    _worker("rm", url, *(("--save-id", save_id) if save_id else ()), *(("--yes",) if yes else ()))


@app.command()
def export(
    source: Url,
    destination: Annotated[
        str, typer.Argument(help="URL or path of the folder, or of the torch file, that is written.")
    ],
    *,
    format_: Annotated[str, typer.Option("--format", help="safetensors, or torch: one file of torch.save.")] = "",
    dtype: Annotated[
        str, typer.Option(help="Type that floating-point values get. Default: that which they have.")
    ] = "",
    keys: Annotated[
        list[str] | None,
        typer.Option(
            help="GLOB=NAME, such as 'model.*=*': the new name of what the glob matches; what no glob matches is left "
            "out. May be repeated. Default: 'model.*=*', or all names as they are where nothing is below model."
        ),
    ] = None,
    select: Annotated[
        list[str] | None, typer.Option(help="Name or glob of entries to take, before --keys. May be repeated.")
    ] = None,
    config: Annotated[
        list[str] | None,
        typer.Option(help="Path or URL of a small file, such as config.json, that goes along. May be repeated."),
    ] = None,
    shard_bytes: Annotated[int, typer.Option(help="Bytes of values in one file at most.", min=1)] = 5_000_000_000,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace a model that stands at the destination.")
    ] = False,
    output: Look = LookOutput.TABLE,
) -> None:
    """Write a checkpoint as a folder of safetensors, or as a file of torch.save, whole. Needs the worker extra.

    Whoever reads it finds the model that stood there before, or the new one, and never a part. Both stores are
    reached with the environment's credentials.
    """
    options = ["--shard-bytes", str(shard_bytes), "-o", output, *(["--dtype", dtype] if dtype else [])]
    asked = [format_] if format_ else []
    for name, values in (("--format", asked), ("--keys", keys), ("--select", select), ("--config", config)):
        options += [part for value in values or () for part in (name, value)]
    _worker("export", source, destination, *options, *(["--overwrite"] if overwrite else []), urls=2)


def _checked(files: list[str], site: Site) -> Documents:
    """Read manifests for where they are to run; of those that only `dcp run` takes say so."""
    try:
        return documents.read(files, site)
    except InputError as error:
        problems = list(error.problems)
        if site is not LOCAL and STDIN not in files:
            with contextlib.suppress(InputError):
                documents.read(files, LOCAL)
                problems.append("That is for a cluster; `dcp run` takes these files: to check for that, add --local.")
        _refuse(problems)


def _read(files: list[str], site: Site) -> Documents:
    try:
        return documents.read(files, site)
    except InputError as error:
        _refuse(error.problems)


def _refuse(problems: Iterable[str]) -> NoReturn:
    for problem in problems:
        typer.echo(problem, err=True)
    raise typer.Exit(BAD_INPUT)


def _show(bodies: list[dict[str, Any]], output: Output) -> None:
    match output:
        case Output.YAML:
            typer.echo(yaml.safe_dump_all(bodies, sort_keys=False, allow_unicode=True), nl=False)
        case Output.JSON:
            whole = bodies[0] if len(bodies) == 1 else {"apiVersion": "v1", "kind": "List", "items": bodies}
            typer.echo(json.dumps(whole, indent=2, ensure_ascii=False))
        case _:
            _print(table.results(bodies, wide=output is Output.WIDE))


def _worker(command: str, *arguments: str, urls: int = 1) -> NoReturn:
    """Become `python -m dcp_worker`: the data plane is a program of its own, never imported here.

    Of the arguments the first ones are URLs.
    """
    named = [_url(each) for each in arguments[:urls]]
    _need_worker()
    sys.stdout.flush()
    # -P: nothing is imported from the current folder, which may be that of somebody else's checkpoint.
    program = [sys.executable, "-P", "-m", "dcp_worker", command, *named, *arguments[urls:]]
    os.execv(sys.executable, program)  # noqa: S606 - our own program, no shell


def _url(given: str) -> str:
    """Return a URL, of a path too; refuse one that is neither."""
    if not protocol(given) and "::" not in given:
        return f"file://{_absolute(given)}"
    if problems := [*url_problems("URL", given, LOCAL.protocols)]:
        _refuse(problems)
    return given


def _absolute(path: str) -> str:
    """Return a path as it counts from the current folder, ~ included."""
    if (found := re.match(r"([a-z0-9]+):/*(?=[^/])", path)) and found[1] in LOCAL.protocols:
        _refuse([f"URL: has not two slashes after its protocol; write {found[1]}://{path[found.end() :]}"])
    return os.path.abspath(os.path.expanduser(path))  # noqa: PTH100, PTH111 - pathlib's raises for an unknown user


def _need_worker() -> None:
    missing = [name for name in ("torch", "obstore") if importlib.util.find_spec(name) is None]
    if missing:
        _refuse([f"{' and '.join(missing)} missing; install the worker extra: pip install 'dcp-operator[worker]'"])


def _print(shown: Table) -> None:
    # A file or a pipe has no width: a row is one line there, however long, as kubectl writes it.
    console = Console() if sys.stdout.isatty() else Console(width=PIPE_WIDTH)
    console.print(shown)


def main() -> None:
    """Run the command line."""
    app(prog_name="dcp")


if __name__ == "__main__":
    main()
