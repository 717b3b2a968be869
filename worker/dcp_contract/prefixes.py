"""Which URLs lie under a prefix, and which of them a run counts among its steps."""

import posixpath
import re
from typing import Final

STEP_FOLDER: Final = re.compile(r"step-([0-9]{1,18})")
"""What the folder of a checkpoint is called that a run makes by itself; a run goes on from the highest step."""


def is_under(url: str, prefix: str) -> bool:
    """Return whether a URL lies below a prefix, or is it; a path with `..` lies nowhere. A path is one of file://."""
    scheme, path = _parts(url)
    of_prefix, above = _parts(prefix)
    plain = ".." not in path.split("/")
    below = f"{posixpath.normpath(path)}/".startswith(f"{posixpath.normpath(above)}/")
    return plain and scheme == of_prefix and below


def is_step(url: str) -> bool:
    """Return whether a URL is named as the checkpoint of a step."""
    return STEP_FOLDER.fullmatch(posixpath.basename(posixpath.normpath(_parts(url)[1]))) is not None


def as_url(place: str) -> str:
    """Return a URL; a path is one of file://."""
    return place if "://" in place or not place else f"file://{place}"


def _parts(url: str) -> tuple[str, str]:
    scheme, _, path = as_url(url).partition("://")
    return scheme, path
