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
    """Run every Checkpoint of the files on this machine, one after the other, in the order given.

    One that fails does not keep the next from running: the exit code is 1 then, and a later one that needs it fails by
    itself. Ctrl-C stops the ranks and says so in the status; a second one kills them.

    An entrypoint is imported from PYTHONPATH or an installed package, else from the current folder, else from the
    manifest's own folder. Credentials come from a Secret in the files where credentialsSecretRef names one, else from
    the environment (AWS_ACCESS_KEY_ID, AWS_ENDPOINT_URL and so on); AWS_PROFILE is not read.
    """
    found = _read(files, LOCAL)
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


@app.command()
def inspect(url: Url, output: Look = LookOutput.TABLE) -> None:
    """Say what stands at a URL: step, world size, tensors, sizes, origin, age. Needs the worker extra."""
    _worker("inspect", url, output)


@app.command()
def verify(url: Url, output: Look = LookOutput.TABLE) -> None:
    """Read every byte of a checkpoint and compare it with its digests. Needs the worker extra."""
    _worker("verify", url, output)


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


def _worker(command: str, url: str, output: LookOutput) -> NoReturn:
    """Become `python -m dcp_worker`: the data plane is a program of its own, never imported here."""
    if not protocol(url) and "::" not in url:
        url = f"file://{_absolute(url)}"
    elif problems := [*url_problems("URL", url, LOCAL.protocols)]:
        _refuse(problems)
    _need_worker()
    sys.stdout.flush()
    # -P: nothing is imported from the current folder, which may be that of somebody else's checkpoint.
    os.execv(sys.executable, [sys.executable, "-P", "-m", "dcp_worker", command, url, "-o", output])  # noqa: S606 - our own program, no shell


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
