"""Paths below the prefix of a store: which there are, and the URL that prefix and path come to.

A path is made of few characters, so that nothing in it means anything to a store, a URL or a file system: no scheme, no
escape, no segment of dots. So the URL always lies below the prefix.
"""

import re
from typing import Final

LONGEST: Final = 512
SEGMENT: Final = "[.]*[A-Za-z0-9_=-][A-Za-z0-9._=-]*"
"""Something beside dots is in it: neither '.' nor '..' is one."""
PATTERN: Final = f"^{SEGMENT}(/{SEGMENT})*$"
"""As CEL reads it, too."""
PATH_PROBLEM: Final = (
    "is no path below a store; write names of letters, digits, and . _ - = with one / between two, such as "
    "run/step-1000, without '..' and without / at either end"
)
_PATH: Final = re.compile(PATTERN)


def is_path(path: str) -> bool:
    """Return whether something can stand there below a store."""
    # Not by `match`: its $ would let a newline through.
    return len(path) <= LONGEST and _PATH.fullmatch(path) is not None


def joined(prefix: str, path: str) -> str:
    """Return the URL of a path below the prefix of a store.

    Raises:
        ValueError: It is no path below a store. Whoever reads a spec says so before.
    """
    if not is_path(path):
        raise ValueError(PATH_PROBLEM)
    return f"{prefix.rstrip('/')}/{path}"
