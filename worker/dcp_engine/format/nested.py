"""Nested states that anybody may have made, within bounds. Pure.

What is held once may stand in one everywhere, and a path of a few characters may ask for a list of any length.
"""

from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any, Final

_DEEPEST: Final = 200
"""Levels of a state; those who take it apart go down by calls."""
_EACH: Final = 32
"""Counted for each container and each value that is no plain one, beside the characters of its name."""
_PLAIN: Final = (str, bytes, int, float, complex, type(None))
_KEY: Final = 16
"""Counted for a key that is no text."""
_FREE_PLACES: Final = 1 << 20
_PLACES_EACH: Final = 16
"""Places of lists that stay empty, at most, for each entry beyond the free ones: one may choose the last of a list."""


class Nest:
    """Puts entries where they stood in nested dicts and lists, as DCP does. A path has texts and places in lists.

    Args:
        entries: How many entries there are, of which some are put.
    """

    def __init__(self, entries: int) -> None:
        self.state: dict[str, Any] = {}
        self._left = _FREE_PLACES + _PLACES_EACH * entries

    def put(self, path: Sequence[str | int], value: object) -> None:
        """Put a value at its path.

        Raises:
            ValueError: No state has such a path, or not beside those before it.
        """
        at: Any = self.state
        for place, key in enumerate(path):
            last = place == len(path) - 1
            self._make_room(at, key)
            if last:
                at[key] = value
                return
            below: Any = at.get(key) if isinstance(at, dict) else at[key]
            if below is None:
                below = at[key] = [] if type(path[place + 1]) is int else {}
            at = below
        raise ValueError("an entry has no path")

    def _make_room(self, at: Any, key: str | int) -> None:  # noqa: ANN401 - a dict, a list, or what is in the way
        if isinstance(at, dict):
            return
        if not isinstance(at, list) or type(key) is not int or key < 0:
            raise ValueError(f"an entry stands at {str(key)[:40]!r} of something that has no such place")
        more = max(0, key + 1 - len(at))
        self._left -= more
        if self._left < 0:
            raise ValueError("its lists are far longer than what is in them")
        at += [None] * more


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
