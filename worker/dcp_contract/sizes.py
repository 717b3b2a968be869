"""Sizes as people read them: in the columns of `kubectl get`, in messages, and in what `dcp` prints."""

from typing import Final

_NO_SIZE: Final = 1_000_000
"""PiB from which on a count of bytes is no size that any store holds."""


def human_bytes(count: float) -> str:
    """Return `418 MiB` or `1.5 GiB`: three digits at most."""
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if count < 1000:  # noqa: PLR2004 - three digits
            return f"{count:.0f} {unit}" if unit == "B" or count >= 10 else f"{count:.1f} {unit}"  # noqa: PLR2004
        count /= 1024
    return f"{count:.0f} PiB" if count < _NO_SIZE else "over 999999 PiB"
