"""How rules look into a podTemplate, in Python and in CEL.

It is free-form: a key may be missing, null, or of another type than its name promises.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

Template = Mapping[str, Any]


def mappings(items: object) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """Yield the entries of a list that are mappings, with their places; nothing for what is no list."""
    if isinstance(items, list):
        yield from ((index, item) for index, item in enumerate(items) if isinstance(item, Mapping))


def pod_of(template: Template) -> Mapping[str, Any]:
    """Return the template's pod spec; an empty one where there is none."""
    spec = template.get("spec")
    return spec if isinstance(spec, Mapping) else {}


def containers(template: Template) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield every container of the template, with its path below it."""
    for kind in ("containers", "initContainers"):
        for index, container in mappings(pod_of(template).get(kind)):
            yield f".spec.{kind}[{index}]", container


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
