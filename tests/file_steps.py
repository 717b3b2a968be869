"""Every step that a process takes on the files below a folder, counted: any of them can fail, or be its last.

The steps are the calls of `os` and `fcntl` that reach a file system. A clean run counts them: what the engine does anew
is struck without anybody's naming it.
"""

import errno
import fcntl
import os
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any, Final

CODES: Final = (errno.ENOSPC, errno.EIO, errno.EACCES, errno.ESTALE)
_CHANGES: Final = frozenset({"link", "rename", "unlink", "mkdir", "rmdir"})
"""What may have happened although an error comes back: a network file system lost the answer."""
_WRITES: Final = _CHANGES | {"fsync", "write", "utime"}
"""What fails on a disk that can still be read, out of the cache."""
_STEPS: Final[Mapping[ModuleType, tuple[str, ...]]] = {
    os: (
        "open", "close", "mkdir", "rmdir", "unlink", "link", "rename", "fsync", "write", "utime",
        "stat", "fstat", "scandir", "pread", "preadv",
    ),
    fcntl: ("flock", "fcntl"),
}  # fmt: skip

Strike = Callable[[str, Callable[[], Any]], Any]
"""Takes the step's name and the step, and does what is to happen in its place."""


@contextmanager
def counted(
    root: Path, number: int = -1, strike: Strike = lambda _name, step: step(), *, on: bool = False
) -> Iterator[list[str]]:
    """Give the list of steps below a folder, `rename .metadata` among them, as they come; strike at the n-th from 0.

    With `on`, strike at all from there on. A step that failed has a `!` before it.
    """
    real = {(module, name): getattr(module, name) for module, names in _STEPS.items() for name in names}
    lock = threading.Lock()  # several files are written at once
    seen: list[str] = []

    def counting(name: str, step: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **options: Any) -> Any:
            path = _path(args, options)
            if not path.is_relative_to(root):
                return step(*args, **options)
            with lock:
                place = len(seen)
                seen.append(f"{name} {path.relative_to(root)}")
            try:
                if place == number or (on and number >= 0 and place > number):
                    return strike(name, lambda: step(*args, **options))
                return step(*args, **options)
            except OSError:
                seen[place] = f"!{seen[place]}"
                raise

        return call

    for (module, name), step in real.items():
        setattr(module, name, counting(name, step))
    try:
        yield seen
    finally:
        for (module, name), step in real.items():
            setattr(module, name, step)


def fails(code: int) -> Strike:
    """Return what fails a step before it does anything; a file is closed all the same, as Linux does."""

    def strike(name: str, step: Callable[[], Any]) -> Any:
        if name == "close":
            step()
        raise OSError(code, os.strerror(code))

    return strike


def loses_answer(name: str, step: Callable[[], Any]) -> Any:
    """Carry out a step that changes something, and say that it failed."""
    done = step()
    if name in _CHANGES:
        raise OSError(errno.EIO, os.strerror(errno.EIO))
    return done


def interrupts(name: str, step: Callable[[], Any]) -> Any:
    """Carry out a step, after which Ctrl-C is pressed."""
    del name
    step()
    raise KeyboardInterrupt


def writes_nothing(name: str, step: Callable[[], Any]) -> Any:
    """Fail whatever writes."""
    if name in _WRITES:
        raise OSError(errno.EIO, os.strerror(errno.EIO))
    return step()


def _path(args: tuple[Any, ...], options: Mapping[str, Any]) -> Path:
    """Return the file or the folder that a step is about; of two names, the new one."""
    given = args[1] if len(args) > 1 and isinstance(args[1], str | os.PathLike) else args[0]
    if isinstance(given, int):
        return Path(_of_descriptor(given))
    folder = options.get("dst_dir_fd", options.get("dir_fd"))
    path = os.fspath(given)
    return Path(path if folder is None else f"{_of_descriptor(folder)}/{path}")


def _of_descriptor(number: int) -> str:
    try:
        return str(Path(f"/proc/self/fd/{number}").readlink()).removesuffix(" (deleted)")
    except OSError:
        return ""
