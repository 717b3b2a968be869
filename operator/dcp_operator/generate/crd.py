"""The CustomResourceDefinitions, generated from the models of `spec` and `status` of each kind.

`python -m dcp_operator.generate` writes them to manifests/crds.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

import yaml
from pydantic import BaseModel

from dcp_contract.environment import REPORT_LIMIT
from dcp_contract.sections import Storage
from dcp_contract.storage_options import SPEC_OPTIONS, StorageOption
from dcp_operator.api.checkpoint.cel import Rule
from dcp_operator.api.checkpoint.cel_rules import RULES
from dcp_operator.api.checkpoint.printer_columns import PRINTER_COLUMNS, PrinterColumn
from dcp_operator.api.checkpoint.spec import MUTABLE_FIELDS, CheckpointSpec
from dcp_operator.api.checkpoint.status import Status
from dcp_operator.api.naming import GROUP, KIND, PLURAL, SERIES_KIND, SERIES_PLURAL, STORE_KIND, STORE_PLURAL, VERSION
from dcp_operator.api.series.cel_rules import RULES as SERIES_RULES
from dcp_operator.api.series.printer_columns import PRINTER_COLUMNS as SERIES_COLUMNS
from dcp_operator.api.series.spec import SeriesSpec
from dcp_operator.api.series.status import SeriesStatus
from dcp_operator.api.store.cel_rules import RULES as STORE_RULES
from dcp_operator.api.store.printer_columns import PRINTER_COLUMNS as STORE_COLUMNS
from dcp_operator.api.store.spec import StoreSpec
from dcp_operator.api.store.status import StoreStatus
from dcp_operator.generate import admission

FOLDER: Final = Path(__file__).parents[3] / "manifests" / "crds"
_HEADER: Final = "# Generated from operator/dcp_operator/api by `make crd`; do not edit.\n"

_KEPT: Final = (
    "description", "type", "format", "enum", "default", "pattern", "minimum", "maximum",
    "minLength", "maxLength", "minItems", "maxItems", "minProperties", "maxProperties", "required",
)  # fmt: skip
_OPTION_TYPES: Final = {str: "string", int: "integer", float: "number", bool: "boolean"}

_TRUTH_VALUES: Final = {"True", "False", "Unknown"}
_WORD: Final = {"pattern": "^[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?$", "minLength": 1, "maxLength": 63}
"""A reason, as in metav1.Condition."""

_NO_DEFAULT: Final[tuple[object, ...]] = ("", None, [], {})

Schema = dict[str, Any]


def custom_resource_definition() -> dict[str, Any]:
    """Return the CustomResourceDefinition of Checkpoint."""
    return _definition(
        kind=KIND,
        plural=PLURAL,
        short_name="dcp",
        schema=_checkpoint_schema(),
        columns=PRINTER_COLUMNS,
        selectable=(".spec.operation", ".status.phase", ".status.reason"),
    )


def series_definition() -> dict[str, Any]:
    """Return the CustomResourceDefinition of CheckpointSeries."""
    return _definition(
        kind=SERIES_KIND,
        plural=SERIES_PLURAL,
        short_name="cps",
        schema=_series_schema(),
        columns=SERIES_COLUMNS,
        selectable=(),
    )


def store_definition() -> dict[str, Any]:
    """Return the CustomResourceDefinition of CheckpointStore."""
    spec = _structural(StoreSpec.model_json_schema(by_alias=True))
    spec["properties"]["options"] = _options()
    what = "A place for checkpoints: its URL, how one gets there, and whether that was found to work."
    return _definition(
        kind=STORE_KIND,
        plural=STORE_PLURAL,
        short_name="cpstore",
        schema=_object_schema(what, spec, StoreStatus, STORE_RULES),
        columns=STORE_COLUMNS,
        selectable=(),
    )


def files() -> tuple[tuple[Path, str], ...]:
    """Return each generated file with its text."""
    return tuple(
        (
            FOLDER / f"{GROUP}_{plural}.yaml",
            _HEADER + yaml.dump(made, Dumper=admission.Plain, sort_keys=False, width=1000),
        )
        for plural, made in (
            (PLURAL, custom_resource_definition()),
            (SERIES_PLURAL, series_definition()),
            (STORE_PLURAL, store_definition()),
        )
    )


def _definition(
    *,
    kind: str,
    plural: str,
    short_name: str,
    schema: Schema,
    columns: Iterable[PrinterColumn],
    selectable: tuple[str, ...],
) -> dict[str, Any]:
    version = {
        "name": VERSION,
        "served": True,
        "storage": True,
        "schema": {"openAPIV3Schema": schema},
        "subresources": {"status": {}},
        "additionalPrinterColumns": [
            {"name": each.name, "type": each.kind, "jsonPath": each.path} | ({"priority": 1} if each.wide else {})
            for each in columns
        ],
        **({"selectableFields": [{"jsonPath": path} for path in selectable]} if selectable else {}),
    }
    names = {
        "kind": kind, "listKind": f"{kind}List", "plural": plural, "singular": kind.lower(),
        "shortNames": [short_name], "categories": ["dcp"],
    }  # fmt: skip
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{plural}.{GROUP}"},
        "spec": {"group": GROUP, "scope": "Namespaced", "names": names, "versions": [version]},
    }


def _checkpoint_schema() -> Schema:
    spec = _structural(CheckpointSpec.model_json_schema(by_alias=True))
    spec["properties"]["storage"]["properties"]["options"] = _options()
    for name, section in spec["properties"].items():
        _say_whether_it_may_change(section, "May change." if name in MUTABLE_FIELDS else "Immutable.")
    what = "One operation, done once, on one distributed PyTorch checkpoint."
    return _object_schema(what, spec, Status, RULES)


def _series_schema() -> Schema:
    spec = _structural(SeriesSpec.model_json_schema(by_alias=True))
    for storage in (spec["properties"]["storage"], _template(spec)["properties"]["storage"]):
        storage["properties"]["options"] = _options()
    what = "A Checkpoint again and again: on a schedule, or every so often."
    return _object_schema(what, spec, SeriesStatus, SERIES_RULES)


def _template(spec: Schema) -> Schema:
    found: Schema = spec["properties"]["template"]["properties"]["spec"]
    return found


def _object_schema(what: str, spec: Schema, status_model: type[BaseModel], rules: Iterable[Rule]) -> Schema:
    status = _open(_structural(status_model.model_json_schema(by_alias=True), with_defaults=False))
    # Without it an object that no operator has seen yet passes for done: kstatus reads no status as Current.
    status["default"] = {"observedGeneration": -1}
    status["properties"]["conditions"] |= {"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["type"]}
    schema: Schema = {
        "description": what,
        "type": "object",
        "required": ["spec"],
        "properties": {
            "apiVersion": {"type": "string"},
            "kind": {"type": "string"},
            "metadata": {"type": "object"},
            "spec": spec,
            "status": status,
        },
    }
    for rule in rules:
        at = schema
        for part in rule.at:
            at = at["properties"][part]
        at.setdefault("x-kubernetes-validations", []).append(rule.to_dict())
    return schema


def _structural(schema: Schema, *, with_defaults: bool = True) -> Schema:
    """Return a pydantic JSON schema as the API server takes it: no references, no null, everything bounded."""
    definitions = schema.get("$defs", {})

    def convert(node: Schema) -> Schema:
        node = _resolved(node, definitions)
        kept: Schema = {key: node[key] for key in _KEPT if key in node}
        if not with_defaults or kept.get("default") in _NO_DEFAULT:
            kept.pop("default", None)
        elif isinstance(kept.get("default"), dict):
            # The API server checks this default by the section's rules before it fills in the fields' own defaults.
            kept["default"] = {key: value for key, value in kept["default"].items() if value not in _NO_DEFAULT}
        if kept.get("description"):
            kept["description"] = " ".join(kept["description"].split())
        if node.get("type") == "object":
            return kept | _object(node, convert)
        if node.get("type") == "array":
            return kept | {"items": convert(node["items"])}
        if node.get("type") == "integer":
            return kept | {"format": "int64"}
        bounded = node.get("type") != "string" or {"enum", "format", "maxLength"} & node.keys()
        return kept if bounded else kept | {"maxLength": REPORT_LIMIT}

    return convert(schema)


def _say_whether_it_may_change(schema: Schema, sentence: str) -> None:
    """Add to the description of each field whether it may change; a section's own fields say it for the section."""
    inner = schema.get("properties")
    if inner:
        for each in inner.values():
            _say_whether_it_may_change(each, sentence)
    else:
        schema["description"] = f"{schema['description']} {sentence}"
    if schema.get("items", {}).get("properties"):
        _say_whether_it_may_change(schema["items"], sentence)


def _open(schema: Schema) -> Schema:
    """Return a status schema that takes words which this version does not know.

    A CRD may be older than the operator: Helm never upgrades one. The status of a condition alone has three words for
    ever.
    """
    if "enum" in schema and set(schema["enum"]) != _TRUTH_VALUES:
        known = f"{schema.get('description', '')} One of {', '.join(schema['enum'])}; a newer operator has more."
        schema = {key: value for key, value in schema.items() if key != "enum"} | _WORD | {"description": known.strip()}
    if "properties" in schema:
        schema = schema | {"properties": {name: _open(each) for name, each in schema["properties"].items()}}
    if "items" in schema:
        schema = schema | {"items": _open(schema["items"])}
    return schema


def _object(node: Schema, convert: Any) -> Schema:  # noqa: ANN401 - the recursion of _structural
    if isinstance(node.get("additionalProperties"), dict):
        return {"additionalProperties": convert(node["additionalProperties"])}
    if "properties" not in node:
        return {"x-kubernetes-preserve-unknown-fields": True}
    return {"properties": {name: convert(each) for name, each in node["properties"].items()}}


def _resolved(node: Schema, definitions: dict[str, Schema]) -> Schema:
    """Return the node with its reference or its one alternative beside null put in; what stands at the node wins."""
    for alternative in node.get("anyOf", ()):
        if alternative.get("type") != "null":
            node = _resolved(alternative, definitions) | {key: node[key] for key in node if key != "anyOf"}
    if "$ref" in node:
        target = definitions[node["$ref"].rpartition("/")[2]]
        node = _resolved(target, definitions) | {key: node[key] for key in node if key != "$ref"}
    return node


def _options() -> Schema:
    """Return the schema of storage.options: every option of every protocol. What is not here is never stored."""
    found: dict[str, tuple[StorageOption, list[str]]] = {}
    for name, options in SPEC_OPTIONS.items():
        for key, option in options.items():
            found.setdefault(key, (option, []))[1].append(name)
    return {
        "description": " ".join(str(Storage.model_fields["options"].description).split()),
        "type": "object",
        "properties": {key: _option(*found[key]) for key in sorted(found)},
    }


def _option(option: StorageOption, protocols: list[str]) -> Schema:
    schema: Schema = {"description": f"{option.doc} For {', '.join(protocols)}.", "type": _OPTION_TYPES[option.kind]}
    if option.choices:
        schema["enum"] = list(option.choices)
    elif option.kind is str:
        schema |= {"minLength": 1, "maxLength": 1024}
    elif option.kind in {int, float}:
        schema |= {"minimum": 1 if option.kind is int else 0, "maximum": 86_400}
    return schema
