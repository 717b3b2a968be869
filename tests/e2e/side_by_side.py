"""Which end-to-end tests may run beside each other: pytest-xdist's scheduler for `make e2e`.

xdist's own `--dist loadgroup` writes a group into a test's id, where pytest 9 no longer looks.
"""

import re
from functools import cache

from xdist.scheduler import LoadScopeScheduling

from cluster.places import TREE

_SHARED = re.compile(r'^@pytest\.fixture\(scope="module"\)', re.MULTILINE)


class SideBySide(LoadScopeScheduling):  # type: ignore[misc]  # xdist publishes no types
    """Each test by itself, but in one process those of a file that has a fixture of the whole file."""

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.partition("::")[0]
        return file if _shares(file) else nodeid


@cache
def _shares(file: str) -> bool:
    return bool(_SHARED.search((TREE / file).read_text(encoding="utf-8")))
