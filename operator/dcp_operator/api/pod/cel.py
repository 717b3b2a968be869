"""How rules look into a podTemplate in CEL, as `template` does in Python.

It is free-form: a key may be missing, null, or of another type than its name promises.
"""

from collections.abc import Iterable
from typing import Final


def cel_at(of: str, key: str) -> str:
    """Return what stands at a key; null where nothing does."""
    return f"{of}[?'{key}'].orValue(dyn(null))"


def cel_maps(of: str, key: str) -> str:
    """Return the entries of a list that are mappings; none for what is no list."""
    value = cel_at(of, key)
    return f"(type({value}) == list ? {value} : []).filter(i, type(i) == map)"


def cel_map(of: str, key: str) -> str:
    """Return the mapping at a key; an empty one for what is none."""
    value = cel_at(of, key)
    return f"(type({value}) == map ? {value} : {{}})"


def cel_null_or(of: str, key: str, kind: str) -> str:
    """Return whether nothing or null stands at a key, or a value of that type."""
    return f"({cel_at(of, key)} == null || type({cel_at(of, key)}) == {kind})"


def cel_names(names: Iterable[str]) -> str:
    """Return a list of names."""
    return f"[{', '.join(repr(name) for name in names)}]"


def cel_pattern(text: str) -> str:
    """Return a pattern as a literal."""
    return "'" + text.replace("\\", "\\\\") + "'"


VARIABLES: Final = {
    "template": f"type({cel_at(cel_map('object.spec', 'workers'), 'podTemplate')}) == map ? "
    f"{cel_at(cel_map('object.spec', 'workers'), 'podTemplate')} : {{}}",
    "pod": cel_map("variables.template", "spec"),
    "volumes": cel_maps("variables.pod", "volumes"),
    "containers": f"{cel_maps('variables.pod', 'containers')} + {cel_maps('variables.pod', 'initContainers')}",
}
"""What the rules' CEL speaks of, in an order in which each needs earlier ones alone."""
