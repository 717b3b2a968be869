"""New names for a checkpoint's entries: a table from globs to names, such as `{"model.*": "*"}`. Pure."""

import re
from collections.abc import Collection, Iterator, Mapping
from fnmatch import fnmatchcase
from itertools import chain

from dcp_engine.errors import InvalidOption, StateMismatch, some


class KeyMapping:
    """Renames by the first line of a table that a whole name matches; a name that none matches is left out.

    A `*` stands for any text, dots too, and for as little as the rest of its line allows. Each `*` of the new name
    takes, in their order, the text of one of the old name.

    Raises:
        InvalidOption: A new name has more stars than its glob.
    """

    def __init__(self, table: Mapping[str, str]) -> None:
        for glob, name in table.items():
            if not isinstance(glob, str) or not isinstance(name, str) or not name:
                raise InvalidOption(f"keys: {glob!r}: {name!r} is no pair of a glob and a name")
            if name.count("*") > glob.count("*"):
                raise InvalidOption(f"keys: {name!r} has more stars than {glob!r}; write at most as many")
        self._lines = [(glob, _pattern(glob), name.split("*")) for glob, name in table.items()]

    def renamed(self, names: Collection[str]) -> dict[str, str]:
        """Return old name -> new name, in the order of the names.

        Raises:
            StateMismatch: A line of the table matches nothing.
            InvalidOption: Two names become one.
        """
        idle = {glob for glob, _, _ in self._lines}
        found: dict[str, str] = {}
        taken: dict[str, str] = {}
        for name in names:
            for glob, pattern, parts in self._lines:
                match = pattern.fullmatch(name)
                if match is None:
                    continue
                idle.discard(glob)
                new = "".join(chain(*_zipped(parts, match.groups())))
                if new in taken:
                    raise InvalidOption(f"keys: {taken[new]} and {name} both become {new}; name them apart")
                taken[new] = name
                found[name] = new
                break
        if idle:
            raise StateMismatch(f"keys: nothing is chosen by {some(idle)}; there are {some(names)}")
        return found


def chosen(names: Collection[str], select: Collection[str]) -> list[str]:
    """Return the names that globs choose, or all if there are no globs; `model` chooses all below it too.

    Raises:
        StateMismatch: A glob chooses nothing.
    """
    globs = (select,) if isinstance(select, str) else tuple(select)
    if idle := [glob for glob in globs if not any(chooses(glob, name) for name in names)]:
        raise StateMismatch(f"select: nothing is chosen by {some(idle)}; there are {some(names)}")
    return [name for name in names if not globs or any(chooses(glob, name) for glob in globs)]


def chooses(glob: str, name: str) -> bool:
    """Tell whether a glob, or the name of what a name is below, chooses the name."""
    return name.startswith(f"{glob}.") or fnmatchcase(name, glob)


def _pattern(glob: str) -> re.Pattern[str]:
    return re.compile("(.*?)".join(map(re.escape, glob.split("*"))), re.DOTALL)


def _zipped(parts: list[str], texts: tuple[str, ...]) -> Iterator[tuple[str, str]]:
    for number, part in enumerate(parts):
        yield part, texts[number] if number < len(parts) - 1 else ""
