"""Pydantic's findings, said in sentences that name the field and the fix. Values are never repeated: one may be secret."""

import difflib
import types
from collections.abc import Iterable, Iterator
from typing import Any, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError

_TYPES = {
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false, without quotes",
    "string": "a string",
    "list": "a list",
    "dict": "a mapping",
    "model": "a mapping",
}


def problems(error: ValidationError, model: type[BaseModel], root: str) -> Iterator[str]:
    """Yield one line `field: what is wrong; write ...` for each finding of a failed validation of `model`."""
    for found in error.errors(include_url=False, include_input=False):
        location = found["loc"]
        field = ".".join([root, *map(_step, location)])
        yield f"{field}: {_sentence(str(found['type']), found.get('ctx', {}), location, model, field)}"


def _sentence(
    kind: str, context: dict[str, Any], location: tuple[int | str, ...], model: type[BaseModel], field: str
) -> str:
    name = str(location[-1]) if location else field
    match kind:
        case "extra_forbidden":
            return _unknown(name, _fields(model, location[:-1]))
        case "missing":
            return f"is missing; write {name}: ..."
        case "enum" | "literal_error":
            return f"is not one of its values; write {context['expected']}"
        case "greater_than_equal" | "greater_than":
            return f"is too small; write {context.get('ge', context.get('gt'))} or more"
        case "less_than_equal" | "less_than":
            return f"is too large; write {context.get('le', context.get('lt'))} or less"
        case "string_too_long" | "too_long":
            return f"is too long; write at most {context['max_length']} characters or entries"
        case "string_too_short" | "too_short":
            return f"is too short; write at least {context['min_length']} character or entry"
        case "string_pattern_mismatch":
            return f"does not have the right form; write something that matches {context['pattern']}"
        case _ if (wanted := _TYPES.get(kind.split("_", maxsplit=1)[0])) is not None:
            return f"has the wrong type; write {wanted}"
        case _:
            return f"is not valid ({kind.replace('_', ' ')}); see kubectl explain checkpoint.{field}"


def _unknown(name: str, known: Iterable[str]) -> str:
    names = sorted(known)
    near = difflib.get_close_matches(name, names, n=1) or [each for each in names if each.lower() == name.lower()]
    if near:
        return f"unknown field; did you mean {near[0]}?"
    return f"unknown field; write one of: {', '.join(names)}"


def _step(part: int | str) -> str:
    return str(part)


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
