"""What is wrong with a manifest, of whatever kind: SpecError, and pydantic's findings in sentences.

A sentence names the field and the fix. No value is repeated: it may be secret.
"""

import difflib
import types
from collections.abc import Iterable, Iterator
from typing import Any, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError

from dcp_operator.api.bounds import LEVELS

_TYPES = {
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false, without quotes",
    "string": "a string",
    "list": "a list",
    "dict": "a mapping",
    "model": "a mapping",
    "datetime": "a time such as 2026-01-31T08:00:00Z",
    "timezone": "a time such as 2026-01-31T08:00:00Z",
}
_SENTENCES = {
    "missing": "is missing; write {name}: ...",
    "json_invalid": f"can't be read ({{error}}); write at most {LEVELS} levels, and whole characters",
    "enum": "is not one of its values; write {expected}",
    "greater_than_equal": "is too small; write {ge} or more",
    "less_than_equal": "is too large; write {le} or less",
    "string_too_long": "is too long; write at most {max_length} characters",
    "string_too_short": "is too short; write at least {min_length} character(s)",
    "too_long": "has too many entries; write at most {max_length}",
    "value_error": "{error}",
    "string_pattern_mismatch": "does not have the right form; write something that matches {pattern}",
}
"""By pydantic's type of finding; the context's names are pydantic's too."""


class SpecError(Exception):
    """A manifest that can't be worked on as it is; its author mends every listed problem and applies it again."""

    def __init__(self, problems: list[str], *, configured: bool = False, writable: bool = True) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems
        """One line each: `field: what is wrong; write ...`."""
        self.configured = configured
        """Nothing is wrong with the manifest itself: an operator that is configured otherwise would accept it."""
        self.writable = writable
        """Whether its status can be written without keeping the API server busy for seconds."""


def problems(error: ValidationError, model: type[BaseModel], root: str) -> Iterator[str]:
    """Yield one line `field: what is wrong; write ...` for each finding of a failed validation of `model`."""
    for found in error.errors(include_url=False, include_input=False):
        location = found["loc"]
        field = root + "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in location)
        yield f"{field}: {_sentence(str(found['type']), found.get('ctx', {}), location, model, field)}"


def _sentence(
    kind: str, context: dict[str, Any], location: tuple[int | str, ...], model: type[BaseModel], field: str
) -> str:
    if kind == "extra_forbidden":
        return unknown_field(str(location[-1]), _fields(model, location[:-1]))
    if kind in _SENTENCES:
        return _SENTENCES[kind].format(name=location[-1] if location else field, **context)
    wanted = _TYPES.get(kind.split("_", maxsplit=1)[0])
    if wanted is not None:
        return f"has the wrong type; write {wanted}"
    return f"is not valid ({kind.replace('_', ' ')}); see kubectl explain checkpoint.{field}"


def unknown_field(name: str, known: Iterable[str]) -> str:
    """Return what to say of a field that is none of the known."""
    names = sorted(known)
    near = difflib.get_close_matches(name, names, n=1) or [each for each in names if each.lower() == name.lower()]
    if near:
        return f"unknown field; did you mean {near[0]}?"
    return f"unknown field; write one of: {', '.join(names)}" if names else "unknown field, and none is known; drop it"


def _fields(model: type[BaseModel], location: tuple[int | str, ...]) -> list[str]:
    """Return the names that the model at `location` accepts."""
    for part in location:
        inner = next((_model_of(f.annotation) for n, f in model.model_fields.items() if part in {n, f.alias}), None)
        if inner is None:
            return []
        model = inner
    return [field.alias or name for name, field in model.model_fields.items()]


def _model_of(annotation: object) -> type[BaseModel] | None:
    candidates = get_args(annotation) if get_origin(annotation) in {Union, types.UnionType, list} else (annotation,)
    return next((each for each in candidates if isinstance(each, type) and issubclass(each, BaseModel)), None)
