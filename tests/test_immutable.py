"""No field of a spec may change but those that are meant to."""

from collections.abc import Iterator
from typing import Any

import pytest

from dcp_operator.api.checkpoint.cel_rules import RULES
from dcp_operator.api.checkpoint.spec import MUTABLE_FIELDS
from dcp_operator.generate.admission import still
from dcp_operator.generate.crd import custom_resource_definition

Path = tuple[str, ...]


def leaves(schema: dict[str, Any], at: Path) -> Iterator[Path]:
    for name, inner in schema.get("properties", {}).items():
        yield from leaves(inner, (*at, name)) if "properties" in inner else [(*at, name)]


def spec_leaves() -> list[Path]:
    (version,) = custom_resource_definition()["spec"]["versions"]
    return list(leaves(version["schema"]["openAPIV3Schema"]["properties"]["spec"], ("spec",)))


def is_held(path: Path) -> bool:
    """Return whether a rule compares the field, or a section that it is in, with what it was."""
    policies = [each["expression"].replace(".?", ".") for each in still()["spec"]["validations"]]
    if any(each.startswith(f"object.{'.'.join(path)} == oldObject") for each in policies):
        return True
    for rule in RULES:
        below = path[len(rule.at) :]
        names = [".".join(below[: end + 1]) for end in range(len(below))] if path[: len(rule.at)] == rule.at else []
        if any(f"self.{name} == oldSelf.{name}" in rule.cel for name in names):
            return True
    return False


@pytest.mark.parametrize("path", spec_leaves(), ids=".".join)
def test_every_field_is_still_or_meant_to_change(path: Path) -> None:
    assert is_held(path) != (path[1] in MUTABLE_FIELDS)
