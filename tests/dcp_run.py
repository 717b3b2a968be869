"""`dcp run` as its user runs it: a process, Checkpoints on its standard input.

Its pods need not load torch each; `test_examples` runs it from a shell, whose pods do.
"""

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
    """Start one, which is ended with the block."""
    arguments = ["run", "-f", "-", *options]
    with tempfile.TemporaryDirectory() as folder:
        process = ForkedRun(arguments, yaml.safe_dump_all(bodies), Path(folder), HERE)
        try:
            yield process
        finally:
            process.kill()
            process.wait(10)


def ran(*bodies: dict[str, Any], options: tuple[str, ...] = ("-o", "json")) -> tuple[int, str, str]:
    with started(*bodies, options=options) as process:
        out, err = process.communicate(timeout=DEADLINE)
        return process.returncode, out, err
