"""`dcp run` as its user runs it: a process, Checkpoints on its standard input."""

import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import yaml

from forked_pods import ForkedRun

HERE: Final = Path(__file__).resolve().parent
DEADLINE: Final = 90.0


@contextmanager
def started(*bodies: dict[str, Any], options: tuple[str, ...] = ("-o", "json")) -> Iterator[ForkedRun]:
    """Start one whose pods need not load torch each."""
    arguments = ["run", "-f", "-", *options]
    with tempfile.TemporaryDirectory() as folder:
        process = ForkedRun(arguments, yaml.safe_dump_all(bodies), Path(folder), HERE)
        try:
            yield process
        finally:
            process.kill()
            process.wait(10)


@contextmanager
def started_anew(*bodies: dict[str, Any], options: tuple[str, ...] = ("-o", "json")) -> Iterator[subprocess.Popen[str]]:
    """Start one as a user's shell does: every pod loads torch."""
    process = subprocess.Popen(
        [sys.executable, "-m", "dcp_operator.cli.app", "run", "-f", "-", *options],
        cwd=HERE,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdin is not None
    process.stdin.write(yaml.safe_dump_all(bodies))
    process.stdin.close()
    process.stdin = None
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def ran(*bodies: dict[str, Any], options: tuple[str, ...] = ("-o", "json"), anew: bool = False) -> tuple[int, str, str]:
    with (started_anew if anew else started)(*bodies, options=options) as process:
        out, err = process.communicate(timeout=DEADLINE)
        return process.returncode, out, err
