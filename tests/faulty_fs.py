"""An fsspec file system over local files that fails on demand and notes what is done to it."""

from pathlib import Path
from typing import Any, Self

import fsspec
from fsspec.implementations.local import LocalFileSystem


class FaultyFileSystem(LocalFileSystem):  # type: ignore[misc] # fsspec has no types
    """`faulty:///path`: a write fails once a file whose name has `fail_name` in it holds `fail_after` bytes."""

    protocol = ("faulty",)
    fail_name = ""
    fail_after = 0
    seen: list[str] = []  # noqa: RUF012 - one log for every instance; fsspec makes them as it likes

    def _open(self, path: str, mode: str = "rb", **kwargs: Any) -> Any:
        file = super()._open(path, mode, **kwargs)
        return _FaultyFile(file, path) if "w" in mode else file

    def rm(self, path: Any, *args: Any, **kwargs: Any) -> None:
        super().rm(path, *args, **kwargs)
        self._note("rm", path)

    def mv(self, path1: str, path2: str, **kwargs: Any) -> None:
        super().mv(path1, path2, **kwargs)
        self._note("mv", path2)

    def _note(self, what: str, path: str) -> None:
        committed = Path(self._strip_protocol(path)).parent.joinpath(".metadata").exists()
        self.seen.append(f"{what} {Path(path).name} {'committed' if committed else 'not committed'}")


class _FaultyFile:
    def __init__(self, file: Any, path: str) -> None:
        self._file = file
        self._name = Path(path).name
        self._written = 0

    def write(self, data: Any) -> int:
        self._written += len(memoryview(data).cast("B"))
        fs = FaultyFileSystem
        if fs.fail_name and fs.fail_name in self._name and self._written > fs.fail_after:
            raise OSError(28, "No space left on device")
        return int(self._file.write(data))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self._file.__exit__(*exc)


fsspec.register_implementation("faulty", FaultyFileSystem, clobber=True)
