"""The command lines, from the parsers that read them."""

import re
from enum import Enum
from typing import Any, Final

from typer import Typer
from typer.main import get_command

from dcp_operator.__main__ import app as operator
from dcp_operator.cli.app import app
from dcp_operator.generate.reference.markdown import code, codes, table

_CODES: Final = (
    ("0", "all is well"),
    ("1", "a Checkpoint did not succeed, or a checkpoint is not well"),
    ("2", "the input can't be run"),
    ("130", "Ctrl-C stopped it"),
    ("143", "SIGTERM stopped it"),
)


def commands() -> list[str]:
    """Return the blocks of the page about command lines."""
    blocks = ["`dcp` comes with the extra `cli`; all but `validate` need the extra `worker`."]
    for name, command in _parsed(app).commands.items():
        blocks += [f"## dcp {name}", *_described(command)]
    blocks += ["## Exit codes of dcp", table(("code", "meaning"), _CODES)]
    blocks += ["## python -m dcp_operator", *_described(_parsed(operator))]
    return [
        *blocks,
        (
            "A variable that holds a list parts its items by blanks or commas. A value that makes no sense, such as an "
            "unknown protocol, ends the process at its start."
        ),
    ]


def _parsed(of: Typer) -> Any:  # noqa: ANN401 - typer does not publish the type of its parser
    return get_command(of)


def _described(command: Any) -> list[str]:  # noqa: ANN401 - as above
    paragraphs = [" ".join(each.split()) for each in re.split(r"\n\s*\n", command.help)]
    variables = any(each.envvar for each in command.params)
    headings = ("option", *(("variable",) if variables else ()), "default", "meaning")
    rows = [
        (_name(each), *((code(each.envvar or ""),) if variables else ()), _default(each), each.help or "")
        for each in command.params
        if each.name != "help"
    ]
    return [*paragraphs, table(headings, rows)]


def _name(parameter: Any) -> str:  # noqa: ANN401 - as above
    if parameter.param_type_name == "argument":
        return code(parameter.name.upper())
    return codes([*parameter.opts, *parameter.secondary_opts])


def _default(parameter: Any) -> str:  # noqa: ANN401 - as above
    value = parameter.default
    if parameter.required:
        return "required"
    if isinstance(value, Enum):
        return f"{code(value.value)} (of {codes(each.value for each in type(value))})"
    if isinstance(value, bool):
        return ("on" if value else "off") if parameter.secondary_opts else ""
    return "" if value is None else code(value)
