"""JSON from the API server, read whatever its depth: one object must not keep all others from being read.

The API server takes objects of 10,000 levels. How many levels Python's own reader takes depends on its version. Where
the reader takes fewer, a list that holds such an object can't be read at all. So levels that are deeper than those of
any valid spec are cut off. What is left of the spec is still deeper than a spec may be, and is refused for that.
"""

import re
from typing import Any, Final

from pydantic_core import from_json

LEVELS: Final = 180
"""Below the 200 that the reader takes, above those that a spec may have, with a list and its page around it."""
_TOKEN: Final = re.compile(r'"(?:[^"\\]|\\.)*"|[\[\]{}]')


def read_json(text: str | bytes) -> Any:  # noqa: ANN401 - JSON
    """Return the value; null stands for each list and mapping in it that lies deeper than LEVELS.

    Raises:
        ValueError: It is no JSON.
    """
    try:
        return from_json(text)
    except ValueError:
        return from_json(_cut(text.decode() if isinstance(text, bytes) else text))


def _cut(text: str) -> str:
    kept: list[str] = []
    depth = done = 0
    for found in _TOKEN.finditer(text):
        sign = found[0]
        if sign in "[{":
            depth += 1
            if depth == LEVELS + 1:
                kept.append(text[done : found.start()])
        elif sign in "]}":
            if depth == LEVELS + 1:
                kept.append("null")
                done = found.end()
            depth -= 1
    return "".join([*kept, text[done:]])
