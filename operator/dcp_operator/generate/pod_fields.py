"""The fields of a pod template, generated from the client's models of the Kubernetes API.

`python -m dcp_operator.generate.pod_fields` writes the table that `dcp validate` reads; with --check it fails where the
table differs. The client itself takes seconds to load, and is no part of what a command line needs.
"""

import json
import re
from pathlib import Path
from typing import Any, Final

from kubernetes.client import models

from dcp_operator.api.pod import fields

PATH: Final = Path(fields.__file__).with_name(fields.TABLE)
_ITEMS: Final = re.compile(r"(List\[|Dict\[str, )(.*)\]")
_SHAPES: Final = {"List[": fields.LIST, "Dict[str, ": fields.MAPPING}


def table() -> dict[str, dict[str, str]]:
    """Return for each type its fields, each with its type.

    A type is a shape (LIST, MAPPING or none), and what is inside; empty where no fields of its own are known.
    """
    found: dict[str, dict[str, str]] = {}
    wanted = [fields.ROOT]
    while wanted:
        name = wanted.pop()
        if name not in found:
            found[name] = _fields(getattr(models, name))
            wanted += [inner for _, inner in map(fields.parted, found[name].values()) if inner]
    return dict(sorted(found.items()))


def _fields(model: Any) -> dict[str, str]:  # noqa: ANN401 - a generated class
    types = {model.attribute_map[name]: kind for name, kind in model.openapi_types.items()}
    return {name: _shape(kind) for name, kind in sorted(types.items())}


def _shape(kind: str) -> str:
    found = _ITEMS.fullmatch(kind)
    shape, inner = (_SHAPES[found[1]], found[2]) if found is not None else ("", kind)
    return shape + (inner if hasattr(getattr(models, inner, None), "openapi_types") else "")


def render() -> str:
    """Return the file's text: a line for each type."""
    lines = [f"  {json.dumps(name)}: {json.dumps(fields)}" for name, fields in table().items()]
    return "{\n" + ",\n".join(lines) + "\n}\n"
