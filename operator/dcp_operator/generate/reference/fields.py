"""The fields of spec and status, from the very schema that the CRD has."""

import json
from typing import Any, Final

from dcp_operator.api.checkpoint.spec import MUTABLE_FIELDS
from dcp_operator.generate.crd import custom_resource_definition, series_definition, store_definition
from dcp_operator.generate.reference.markdown import code, codes, table

_HEADINGS: Final = ("field", "type", "default", "meaning")
_BOUNDS: Final = (("minimum", "at least"), ("maximum", "at most"), ("maxItems", "at most"))
_ELSEWHERE: Final = {
    ("spec.storage", "options"): "options.md",
    ("spec.template.spec.storage", "options"): "options.md",
    ("spec.template", "spec"): "spec.md",
    ("spec", "options"): "options.md",
}
"""Objects whose fields stand on another page."""
_REASONS: Final = "One of the [status reasons](reasons.md)."
_NO_FIELD: Final = "No field yet."
_UNBOUNDED: Final = {"boolean", "object"}

Schema = dict[str, Any]


def spec() -> list[str]:
    """Return the blocks of the page about the spec."""
    rest = ", ".join(map(code, MUTABLE_FIELDS))
    return [
        "`kubectl explain checkpoint.spec --recursive` shows the same fields. A field in **bold** is required.",
        f"Of a Checkpoint that exists only {rest} can be changed. Other changes need another Checkpoint.",
        *_sections("spec", _properties()["spec"]),
    ]


def status() -> list[str]:
    """Return the blocks of the page about the status."""
    return [
        (
            "The operator writes the status; `dcp run -o yaml` prints the same one. A field that holds its "
            "default is left out. The words of `reason` stand in [Status reasons](reasons.md)."
        ),
        *_sections("status", _properties()["status"]),
    ]


def series() -> list[str]:
    """Return the blocks of the page about spec and status of a CheckpointSeries."""
    properties = _properties(series_definition())
    return [
        (
            "`kubectl explain checkpointseries --recursive` shows the same fields. A field in **bold** is required. "
            "All of the spec may change: runs under way go on as they began."
        ),
        *_sections("spec", properties["spec"]),
        "The operator writes the status. A field that holds its default is left out.",
        *_sections("status", properties["status"]),
    ]


def store() -> list[str]:
    """Return the blocks of the page about spec and status of a CheckpointStore."""
    properties = _properties(store_definition())
    return [
        (
            "`kubectl explain checkpointstore --recursive` shows the same fields. A field in **bold** is required. "
            "All of the spec may change: the store is then validated again."
        ),
        *_sections("spec", properties["spec"]),
        "The operator writes the status. A field that holds its default is left out.",
        *_sections("status", properties["status"]),
    ]


def _properties(definition: dict[str, Any] | None = None) -> dict[str, Schema]:
    (version,) = (definition or custom_resource_definition())["spec"]["versions"]
    found: dict[str, Schema] = version["schema"]["openAPIV3Schema"]["properties"]
    return found


def _sections(path: str, schema: Schema) -> list[str]:
    """Return a heading, the rules and a table for an object, then the same for each object in it."""
    required = set(schema.get("required", ()))
    rows, below = [], list[str]()
    for name, field in schema["properties"].items():
        inner = field.get("items", field)
        shown = f"**`{name}`**" if name in required else code(name)
        if (path, name) in _ELSEWHERE:
            shown = f"[{shown}]({_ELSEWHERE[path, name]})"
        elif "properties" in inner:
            place = f"{path}.{name}{'[]' if inner is not field else ''}"
            shown = f"[{shown}](#{_anchor(place)})"
            below += _sections(place, inner)
        rows.append((shown, _type(field), _default(field), _meaning(field, inner)))
    blocks = [f"## {path}", table(_HEADINGS, rows) if rows else _NO_FIELD]
    if refused := _refused(schema):
        blocks += ["The API server refuses a spec that breaks one of these rules:", "\n".join(refused)]
    return [*blocks, *below]


def _refused(schema: Schema) -> list[str]:
    """Return the messages of an object's CEL rules, but for those that hold a field still or are about one option."""
    found = []
    for rule in schema.get("x-kubernetes-validations", ()):
        field = rule.get("fieldPath", "").removeprefix(".")
        if "oldSelf" not in rule["rule"] and not field.startswith("options."):
            found.append(f"- {code(field)}: {rule['message']}" if field else f"- {rule['message']}")
    return found


def _anchor(heading: str) -> str:
    """Return the anchor that Markdown gives a heading: letters and digits."""
    return "".join(each for each in heading.lower() if each.isalnum())


def _type(field: Schema) -> str:
    if field["type"] == "array":
        return f"list of {_type(field['items'])}"
    if field.get("format") == "date-time":
        return "time"
    if "enum" in field:
        return codes(field["enum"])
    return str(field["type"])


def _default(field: Schema) -> str:
    if "default" not in field or field["type"] == "object":
        return ""
    return code(json.dumps(field["default"]).strip('"'))


def _meaning(field: Schema, inner: Schema) -> str:
    text = field.get("description") or inner.get("description", "")
    about, of, _ = text.partition("One of Saved, ")
    words = [f"{about}{_REASONS}" if of else text]
    bounds = [f"{word} {field[key]}" for key, word in _BOUNDS if key in field and _says(field, key)]
    if bounds:
        words.append(f"{' and '.join(bounds).capitalize()}.")
    return " ".join(filter(None, words))


def _says(field: Schema, key: str) -> bool:
    """Return whether a bound tells a reader anything: not that a count is a count."""
    return field["type"] not in _UNBOUNDED and not (key == "minimum" and field[key] == 0)
