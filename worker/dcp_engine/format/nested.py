"""How much a nested state says that anybody may have made: what is held once may stand in it everywhere. Pure."""

from collections import deque
from collections.abc import Mapping
from typing import Final

_DEEPEST: Final = 200
"""Levels of a state; those who take it apart go down by calls."""
_EACH: Final = 32
"""Counted for each container and each value that is no plain one, beside the characters of its name."""
_PLAIN: Final = (str, bytes, int, float, complex, type(None))
_KEY: Final = 16
"""Counted for a key that is no text."""


def need_bounded(state: object, most: int) -> None:
    """Refuse a state of which the entries, each by its whole name, are far more than what it was read from.

    Args:
        state: Dicts, lists and tuples, nested; anything else is a value.
        most: Characters of names, values in lists, and some for each container, at most.

    Raises:
        ValueError: They are more, it is nested too deeply, or contains itself.
    """
    ahead: list[tuple[object, int, int]] = [(state, 0, 0)]
    while ahead:
        value, name, depth = ahead.pop()
        inner: list[tuple[object, int, int]]
        if isinstance(value, Mapping):
            inner = [(each, name + 1 + _length(key), depth + 1) for key, each in value.items()]
            most -= sum(_EACH + length for _, length, _ in inner)
        elif isinstance(value, (list, tuple, deque)):
            inner = [(each, name + 1, depth + 1) for each in value if not isinstance(each, _PLAIN)]
            most -= len(value) + len(inner) * (_EACH + name + 1)
        else:
            continue
        if most < 0:
            raise ValueError("its entries are far more than it has bytes")
        if inner and depth >= _DEEPEST:
            raise ValueError(f"it is nested more than {_DEEPEST} levels deep")
        ahead += inner


def _length(key: object) -> int:
    """Return about how many characters a key gives to a name.

    Raises:
        ValueError: It is nested itself: its text may be far longer than it.
    """
    if isinstance(key, (tuple, frozenset)) and not all(isinstance(each, _PLAIN) for each in key):
        raise ValueError("a key in it is nested")
    if isinstance(key, (str, bytes, tuple, frozenset)):
        return len(key) if isinstance(key, (str, bytes)) else sum(map(_length, key))
    return _KEY
