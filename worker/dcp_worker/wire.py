"""A message read although it is not whole, or although another version wrote it: plain dicts in, plain dicts out.

The kubelet keeps 12 KiB of termination messages per pod, and cuts each container's at an equal share, whoever put the
other containers in. So the front of a Report has to say what the whole would: how it ended comes first in it.
"""

import re
from collections.abc import Mapping
from typing import Any, Final

from pydantic_core import from_json

_LOOSE_END: Final = re.compile(r"[A-Za-z0-9.+-]*$")
"""A number or a word at the very end may go on beyond the cut."""
_FREE_TEXT: Final = ("message", "stage", "traceback")
"""Of a failure or a conflict: what a cut may shorten. Everything else is read whole or not at all."""
_TOLD: Final = ("result", "conflict", "failures")
"""What a Report is read for, in this order."""
_AFTER_ORIGIN: Final = frozenset({"createdTime", "message"})


def front(text: str) -> dict[str, Any] | None:
    """Return what a Report that was cut says for certain, or None if that is not how the attempt ended.

    A conflict is certain when its holder is: it may be this very run's own commit. A failure is certain when its
    message has begun: its reason, its rank and its time come before that.
    """
    if not text.startswith("{"):
        return None
    text = _LOOSE_END.sub("", text)
    try:
        whole = from_json(text, allow_partial=True)
        more = from_json(text, allow_partial="trailing-strings")
    except ValueError:
        return None
    last = next(reversed(more), "")
    if last == "conflict":
        whole["conflict"] = _conflict(whole.get("conflict"), more["conflict"])
    elif last == "failures":
        whole["failures"] = _failures(whole.get("failures"), more["failures"])
    elif last == "checkpoint" and isinstance(whole.get("checkpoint"), dict):
        # Half an origin would be somebody else's.
        whole["checkpoint"].pop("origin", None)
    found = {key: value for key, value in whole.items() if value not in (None, [])}
    known = any(key in found for key in _TOLD) or bool(more.keys() & {"checkpoint", "warnings"})
    return found if known else None


def _conflict(whole: object, more: object) -> dict[str, Any] | None:
    if not isinstance(whole, dict) or not isinstance(more, dict) or not _AFTER_ORIGIN & more.keys():
        return None
    return whole | _shortened(whole, more)


def _failures(whole: object, more: object) -> list[dict[str, Any]]:
    if not isinstance(whole, list) or not isinstance(more, list) or not whole:
        return []
    *before, last = whole
    if not isinstance(last, dict) or "message" not in more[-1]:
        return before
    return [*before, last | _shortened(last, more[-1])]


def _shortened(whole: Mapping[str, Any], more: Mapping[str, Any]) -> dict[str, str]:
    return {key: f"{more[key]}…" for key in _FREE_TEXT if key in more and key not in whole}
