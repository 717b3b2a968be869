"""How deep and how large a spec may be: its free-form fields have no schema that would bound them.

The API server takes objects of 10,000 levels and 1.5 MB. It needs seconds to write one of so many levels, and the
operator would keep every byte of each that is live.
"""

import json
from typing import Any, Final

LEVELS: Final = 32
"""How many lists and mappings may lie in one another in a free-form field. A pod's deepest field has 12."""
WRITABLE: Final = 150
"""Levels of a spec above which nothing is written to its object. What is read of the API server goes a little deeper,
so that what was cut off it is found by this."""
BYTES: Final = 262_144
"""How large a spec may be, as JSON."""
FREE_FORM: Final = (("workload", "args"), ("workers", "podTemplate"))

TOO_DEEP: Final = f"is nested too deeply; write at most {LEVELS} levels"
TOO_LARGE: Final = f"spec: is larger than {BYTES >> 10} KiB; move what is large into the image or a ConfigMap"


def deeper(value: object, levels: int) -> bool:
    """Return whether more lists and mappings than that lie in one another."""
    level: list[Any] = [value]
    for _ in range(levels + 1):
        level = [node for node in level if isinstance(node, dict | list)]
        if not level:
            return False
        level = [each for node in level for each in (node.values() if isinstance(node, dict) else node)]
    return True


def larger(spec: object) -> bool:
    """Return whether a spec is larger than it may be."""
    return len(json.dumps(spec, default=str)) > BYTES


def cel(of: str) -> str:
    """Return CEL for what is at most LEVELS deep. It knows no recursion, so each level is written out."""
    return _levels(of, LEVELS, 0)


def _levels(of: str, left: int, number: int) -> str:
    if left == 0:
        return f"(type({of}) != map && type({of}) != list)"
    inside = f"(type({of}) == map ? {of}.map(k, {of}[k]) : type({of}) == list ? {of} : [])"
    item = f"v{number}"
    return f"{inside}.all({item}, {_levels(item, left - 1, number + 1)})"


def head(spec: Any) -> dict[str, Any]:  # noqa: ANN401 - JSON
    """Return what is told of a spec that is not kept: which operation it asks for, and which run."""
    fields = spec if isinstance(spec, dict) else {}
    return {key: fields[key][:63] for key in ("operation", "runId") if isinstance(fields.get(key), str)}
