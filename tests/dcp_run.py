"""`dcp run` as its user runs it: a process, Checkpoints on its standard input."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import yaml

HERE: Final = Path(__file__).resolve().parent
DEADLINE: Final = 90.0


@contextmanager
def started(*bodies: dict[str, Any], options: tuple[str, ...] = ("-o", "json")) -> Iterator[subprocess.Popen[str]]:
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


def ran(*bodies: dict[str, Any], options: tuple[str, ...] = ("-o", "json")) -> tuple[int, str, str]:
    with started(*bodies, options=options) as process:
        out, err = process.communicate(timeout=DEADLINE)
        return process.returncode, out, err
