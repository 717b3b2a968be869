"""Pickles that anybody may have written are first read in a process of its own, with little memory and little time.

Pickle is a language: nine bytes ask for gigabytes, 300 make a key whose hash takes a year, two million nested tuples
end the process that hashes them. A process that may be lost tells such a pickle from an honest one, whatever the trick.
What comes back is text, or a yes.
"""

import json
import signal
import struct
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final, NamedTuple

from dcp_engine.errors import EngineError

_PROGRAM: Final = (
    "import sys; sys.path.append(sys.argv.pop(1)); from sandboxed.program import main; main(*sys.argv[1:])"
)
"""Nothing but the standard library and the folder `sandboxed` is to be found: torch alone takes the memory of many."""
_REFUSED: Final = 3
_TELLING: Final = {
    0,
    _REFUSED,
    *(-number for number in (signal.SIGSEGV, signal.SIGBUS, signal.SIGABRT, signal.SIGXCPU)),
}
"""How the process ends by what it reads. Anything else, such as the kernel's want of memory, says nothing of that."""
_MEMORY: Final = 96 << 20
"""Bytes of the process without what it reads."""
_MEMORY_TIMES: Final = 24
"""Bytes that an honest pickle takes, by its own: nearly twice what was measured."""
_SECONDS: Final = 2
_BYTES_A_SECOND: Final = 4 << 20
"""Of processor time: a quarter of what was measured."""
_PATIENCE: Final = 10
"""Seconds of the clock for one of the processor; later something else than the pickle is wrong."""


class Harmful(Exception):
    """A pickle that must not be read here; `done` before it were good."""

    def __init__(self, why: str, done: int = 0) -> None:
        super().__init__(why)
        self.done = done


def manifest_of(pickled: bytes) -> bytes:
    """Return the JSON of a manifest that says what a stock `.metadata` says; nothing in it is checked yet.

    Raises:
        Harmful: no stock writer wrote it.
    """
    status, output = _run("metadata", [pickled])
    if status:
        raise Harmful(_why(status, output))
    return output


class Pickled(NamedTuple):
    """The pickle of a container, and the storages that lie beside it: key -> bytes."""

    data: bytes
    stored: tuple[tuple[str, int], ...]


def examine(pickles: Sequence[Pickled]) -> None:
    """Make sure that `torch.load` can read these without harm, whatever they hold.

    Raises:
        Harmful: one can't; `done` is its place.
    """
    status, output = _run("objects", [part for pickled in pickles for part in _framed(pickled)])
    done = len(output) - len(output.lstrip(b"+"))
    if status or done != len(pickles):
        raise Harmful(_why(status, output.lstrip(b"+\n")), done)


def _framed(pickled: Pickled) -> Sequence[bytes]:
    stored = json.dumps(dict(pickled.stored)).encode()
    return struct.pack("<QQ", len(pickled.data), len(stored)), pickled.data, stored


def _run(mode: str, parts: Sequence[bytes]) -> tuple[int, bytes]:
    size = sum(map(len, parts))
    seconds = _SECONDS + size // _BYTES_A_SECOND
    memory = _MEMORY + _MEMORY_TIMES * size
    command = [
        sys.executable,
        "-I",
        "-S",
        "-c",
        _PROGRAM,
        str(Path(__file__).parents[1]),
        mode,
        str(memory),
        str(seconds),
    ]
    try:
        done = subprocess.run(  # noqa: S603 - our own program
            command, input=b"".join(parts), capture_output=True, timeout=_PATIENCE * (seconds + 1), check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise EngineError(f"a pickle can't be examined in a process of its own: {error}") from error
    if done.returncode not in _TELLING:
        said = done.stderr.decode(errors="replace").strip().rpartition("\n")[2] or f"exit status {done.returncode}"
        raise EngineError(f"a pickle can't be examined in a process of its own: {said}")
    return done.returncode, done.stdout


def _why(status: int, output: bytes) -> str:
    if status == -signal.SIGXCPU:
        return "it takes far more time than what it says is worth"
    if status < 0:
        return f"it ends the process that reads it (signal {-status})"
    return output.decode(errors="replace").strip() or "it ends too early"
