"""A message read although it is not whole, or although another version wrote it: plain dicts in, plain dicts out.

What a newer version says is made into what this one knows, or named as what it does not know.

The kubelet keeps 12 KiB of termination messages per pod, and cuts each container's at an equal share, whoever put the
other containers in. So the front of a Report has to say what the whole would: how it ended comes first in it.
"""

import re
from collections.abc import Container, Mapping
from contextlib import suppress
from typing import Any, Final

from pydantic_core import ValidationError, from_json

_LOOSE_END: Final = re.compile(r"[A-Za-z0-9.+-]*$")
"""A number or a word at the very end may go on beyond the cut."""
_FREE_TEXT: Final = ("message", "stage", "traceback")
"""Of a failure or a conflict: what a cut may shorten. Everything else is read whole or not at all."""
_TOLD: Final = ("result", "conflict", "failures")
"""What a Report is read for, in this order."""
_AFTER_ORIGIN: Final = frozenset({"createdTime", "message"})


def front(text: str) -> dict[str, Any] | None:
    """Return what a Report says for certain though it may be cut, or None if that is not how the attempt ended.

    A conflict is certain when its holder is: it may be this very run's own commit. A failure is certain when its
    message has begun: its reason, its rank and its time come before that.
    """
    if not text.startswith("{"):
        return None
    with suppress(ValueError):
        told: dict[str, Any] = from_json(text)
        return told
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


def with_known_reasons(report: Mapping[str, Any], known: Container[str], instead: str) -> dict[str, Any]:
    """Return a Report's fields with `instead` for each failure's reason that only a newer version knows.

    The word goes in front of the message, so that a person reads it all the same.
    """
    failures = report.get("failures")
    if not isinstance(failures, list):
        return dict(report)
    return {**report, "failures": [with_known_reason(each, known, instead) for each in failures]}


def with_known_reason(failure: object, known: Container[str], instead: str) -> object:
    """Return one failure's fields with `instead` for a reason that only a newer version knows."""
    word = failure.get("reason") if isinstance(failure, dict) else None
    if not isinstance(failure, dict) or not isinstance(word, str) or word in known:
        return failure
    return {**failure, "reason": instead, "message": f"{word[:63]}: {failure.get('message', '')}"}


def without_ignorable(task: dict[str, Any], error: ValidationError) -> list[str]:
    """Take the fields out of a Task that are not known and may be left out; return a line for each other fault."""
    ignorable = task.get("ignorable")
    allowed = set(ignorable) if isinstance(ignorable, list) else set()
    problems: list[str] = []
    for found in error.errors(include_url=False, include_context=False, include_input=False):
        path = found["loc"]
        name = ".".join(map(str, path))
        if found["type"] != "extra_forbidden":
            problems.append(f"{name}: {found['msg']}")
        elif name in allowed:
            _drop(task, path)
        else:
            problems.append(f"{name}: this worker image does not know it")
    return problems


def _drop(fields: dict[str, Any], path: tuple[int | str, ...]) -> None:
    *parents, last = path
    at: Any = fields
    for part in parents:
        at = at[part]
    del at[last]
