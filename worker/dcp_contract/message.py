"""What every message between processes is: frozen JSON with a version, of values that any API server can store."""

from datetime import UTC, datetime
from typing import Annotated, Any, Final, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    ValidationError,
    model_serializer,
)
from pydantic.alias_generators import to_camel

CONTRACT_VERSION: Final = 2
"""Of Task and Report; a message without one is of version 1. A worker of version n works with operators of n-1 to n+1.

A change that the version before can't read raises it. A new field of the Task is one that a worker may leave out, then
`Task.ignorable` names it, or one that has to be understood, then it is sent only where it is needed. A new reason is
sent with `RankFailure.retriable` for one version.
"""
_TOO_MUCH: Final = 1 << 63


class Wire(BaseModel):
    """A frozen JSON message with camelCase names, which refuses fields that it does not know."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        alias_generator=to_camel,
        validate_by_name=True,
        validate_by_alias=True,
        ser_json_inf_nan="constants",
    )

    def to_json(self) -> str:
        """Return compact JSON without the fields that hold their default."""
        return self.model_dump_json(by_alias=True, exclude_defaults=True)

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON-ready dict without the fields that are None."""
        return self.model_dump(mode="json", by_alias=True, exclude_none=True)


def _known(value: object, unknown: object) -> object:
    number = _number(value)
    fits = not isinstance(number, int | float) or abs(number) < _TOO_MUCH
    return value if fits else unknown


def _counted(value: object) -> object:
    number = _number(value)
    return None if isinstance(number, int | float) and number < 0 else _known(value, None)


def _number(value: object) -> object:
    """Return the number that a text says, as pydantic would read it; anything else as it is."""
    if not isinstance(value, str):
        return value
    try:
        return float(value)
    except ValueError:
        return value


def _utc(time: datetime | None) -> datetime | None:
    if time is None or time.tzinfo is None:
        return time and time.replace(tzinfo=UTC)
    try:
        return time.astimezone(UTC)
    except OverflowError:
        return None


Url = Annotated[str, Field(min_length=1, max_length=1024)]
Text = Annotated[str, BeforeValidator(lambda text: _encodable(text) if isinstance(text, str) else text)]
"""Words of foreign origin: what UTF-8 can't say (a path's stray byte in an error) becomes a question mark."""
Int = Annotated[int, BeforeValidator(lambda value: _known(value, 0))]
"""A number of foreign origin, as an API server stores it: what 64 bits can't hold is 0."""
MaybeInt = Annotated[int | None, BeforeValidator(lambda value: _known(value, None))]
"""The same where it may be unknown: what 64 bits can't hold is."""
MaybeCount = Annotated[int | None, BeforeValidator(_counted)]
"""The same where nothing is less than 0."""
Real = Annotated[float, BeforeValidator(lambda value: _known(value, 0.0))]
Time = Annotated[datetime | None, AfterValidator(_utc)]
"""A time of foreign origin, in UTC; one that UTC can't say is unknown."""
SaveId = Annotated[str, Field(min_length=32, max_length=32, pattern=r"^[0-9a-f]{32}$")]
Glob = Annotated[str, Field(min_length=1, max_length=253)]
ClassName = Annotated[str, Field(max_length=253, pattern=r"^[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z_][A-Za-z0-9_]*)+$")]


class Versioned(Wire):
    """A message that says which version of the contract it is of; one that says none is of version 1."""

    contract_version: Int = CONTRACT_VERSION

    @model_serializer(mode="wrap")
    def _with_version(self, fields: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {"contractVersion": self.contract_version, **fields(self)}

    def of_its_version(self) -> Self:
        """Return a message that was read: with the version that it was written in."""
        return self if "contract_version" in self.model_fields_set else self.model_copy(update={"contract_version": 1})


def first_problem(error: ValidationError) -> str:
    """Return in one line, without the input, the first thing that keeps a message from being read."""
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    return ": ".join(filter(None, (".".join(map(str, first["loc"])), first["msg"])))


def _encodable(text: str) -> str:
    return text.encode(errors="replace").decode()
