"""Durations as people write them in YAML: `90s`, `30m`, `12h`, `14d`, `1d12h`; in Python a timedelta."""

import re
from datetime import timedelta
from typing import Annotated, Final

from pydantic import BeforeValidator, PlainSerializer, WithJsonSchema

_UNITS: Final = {"d": "days", "h": "hours", "m": "minutes", "s": "seconds"}
_PATTERN: Final = "^" + "".join(f"([0-9]{{1,6}}{unit})?" for unit in _UNITS) + "$"
_LONGEST: Final = 27
"""Characters: six digits and a unit, four times, fit well."""


def parse_duration(text: str) -> timedelta:
    """Return the duration that a text such as `1d12h` says.

    Raises:
        ValueError: it says none.
    """
    found = re.fullmatch(_PATTERN, text)
    if not text or found is None:
        raise ValueError(f"{text!r} is no duration; write such as 90s, 30m, 12h, 14d or 1d12h")
    return timedelta(
        **{word: int(part[:-1]) for part, word in zip(found.groups(), _UNITS.values(), strict=True) if part}
    )


def duration_text(duration: timedelta) -> str:
    """Return the text that says a duration, in whole seconds."""
    seconds = int(duration.total_seconds())
    parts = []
    for unit, size in (("d", 86_400), ("h", 3600), ("m", 60), ("s", 1)):
        count, seconds = divmod(seconds, size)
        if count:
            parts.append(f"{count}{unit}")
    return "".join(parts) or "0s"


Duration = Annotated[
    timedelta,
    BeforeValidator(lambda value: parse_duration(value) if isinstance(value, str) else value),
    PlainSerializer(duration_text, return_type=str),
    WithJsonSchema({"type": "string", "pattern": _PATTERN, "minLength": 2, "maxLength": _LONGEST}),
]
"""A field of a message or a spec: `14d` in JSON and YAML, a timedelta in Python."""
