"""What the API server has against an attempt's Job, said of the fields that its author wrote.

A Job's `spec.template` is the podTemplate with the operator's own fields merged in: paths differ, and places in lists.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from dcp_operator.api.naming import WORKER_CONTAINER
from dcp_operator.api.pod.fields import FIELD, known_at
from dcp_operator.api.pod.template import MERGE_KEYS, Node
from dcp_operator.api.problems import unknown_field

_TEMPLATE: Final = "spec.template"
_UNKNOWN: Final = re.compile(r'unknown field "([^"]+)"')
_PATH: Final = re.compile(r"\bspec\.template((?:\.[A-Za-z][\w-]*|\[\d+\])*)")
_PARTS: Final = re.compile(r"\.([A-Za-z][\w-]*)|\[(\d+)\]")


def explained(message: str, job: Node, template: Node) -> list[str]:
    """Return the lines to show for an answer of the API server.

    Args:
        message: Its words.
        job: The Job that it was asked to create.
        template: The podTemplate that the Job was made with.
    """
    pod = job["spec"]["template"]
    unknown = [path for path in _UNKNOWN.findall(message) if path.startswith(f"{_TEMPLATE}.")]
    if unknown:
        return [_unknown(path, pod, template) for path in unknown]
    said = _PATH.sub(lambda found: _named(found[1], pod, template), message)
    return [f"The API server refuses the attempt's objects: {said}"]


def _unknown(path: str, pod: Node, template: Node) -> str:
    below = path.removeprefix(_TEMPLATE)
    *parents, name = [part for part, _ in _PARTS.findall(below) if part]
    return f"{_named(below, pod, template)}: {unknown_field(name, known_at(tuple(parents)))}"


def _named(below: str, pod: Node, template: Node) -> str:
    """Return the author's path for one below the Job's template."""
    parts = [part or int(index) for part, index in _PARTS.findall(below)]
    if parts[:2] == ["spec", "containers"] and parts[3:] == ["image"] and _is_worker(pod, parts[2]):
        return "spec.workers.image"
    return FIELD + "".join(
        f"[{part}]" if isinstance(part, int) else f".{part}" for part in _moved(parts, pod, template)
    )


def _is_worker(pod: Node, index: object) -> bool:
    containers = pod["spec"]["containers"]
    return isinstance(index, int) and index < len(containers) and containers[index].get("name") == WORKER_CONTAINER


def _moved(parts: Sequence[str | int], made: object, written: object) -> Iterator[str | int]:
    """Yield the parts of a path with the places that entries of merged lists have in what was written."""
    key = ""
    for part in parts:
        here: str | int = part
        if isinstance(part, int):
            entry = made[part] if isinstance(made, list) and part < len(made) else None
            here = _place(entry, written, MERGE_KEYS.get(key, ()), part)
        made, written = _child(made, part), _child(written, here)
        key = part if isinstance(part, str) else key
        yield here


def _place(entry: object, written: object, names: tuple[str, ...], otherwise: int) -> int:
    if not names or not isinstance(entry, Mapping) or not isinstance(written, list):
        return otherwise
    same = [entry.get(name) for name in names]
    places = (at for at, each in enumerate(written) if isinstance(each, Mapping) and [*map(each.get, names)] == same)
    return next(places, otherwise)


def _child(node: object, part: str | int) -> object:
    if isinstance(part, int):
        return node[part] if isinstance(node, list) and part < len(node) else None
    return node.get(part) if isinstance(node, Mapping) else None
