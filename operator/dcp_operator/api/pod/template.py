"""A podTemplate: what is looked at in it, and how ours is merged over it.

It is free-form: a key may be missing, null, or of another type than its name promises.
"""

import copy
import posixpath
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, Self

from dcp_operator.api.naming import WORKER_CONTAINER

MERGE_KEYS: Final[Mapping[str, tuple[str, ...]]] = {
    "containers": ("name",),
    "initContainers": ("name",),
    "volumes": ("name",),
    "env": ("name",),
    "volumeMounts": ("mountPath",),
    "tolerations": ("key", "effect"),
}
"""Lists that merge, by what tells their entries apart."""


Node = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class TemplateView:
    """A podTemplate, looked into once: only what is of the type that its name promises is in the parts."""

    template: Node
    """As it was written."""
    metadata: Node
    pod: Node
    """The pod's spec."""
    volumes: tuple[tuple[int, Node], ...]
    """With their places."""
    containers: tuple[tuple[str, Node], ...]
    """Every container, init containers too, with its path below the podTemplate."""
    worker_env: tuple[Node, ...]
    """The environment variables of the worker container."""
    mounted_paths: tuple[str, ...]
    """Where volumes are mounted into the worker container."""

    @classmethod
    def of(cls, template: Node) -> Self:
        """Look into a podTemplate."""
        pod = mapping(template.get("spec"))
        workers = [each for _, each in mappings(pod.get("containers")) if each.get("name") == WORKER_CONTAINER]
        mounts = [mount for worker in workers for _, mount in mappings(worker.get("volumeMounts"))]
        return cls(
            template=template,
            metadata=mapping(template.get("metadata")),
            pod=pod,
            volumes=tuple(mappings(pod.get("volumes"))),
            containers=tuple(
                (f".spec.{kind}[{index}]", container)
                for kind in ("containers", "initContainers")
                for index, container in mappings(pod.get(kind))
            ),
            worker_env=tuple(entry for worker in workers for _, entry in mappings(worker.get("env"))),
            mounted_paths=tuple(posixpath.normpath(str(each["mountPath"])) for each in mounts if each.get("mountPath")),
        )


def mapping(value: object) -> Node:
    """Return a value that is a mapping; an empty one for what is none."""
    return value if isinstance(value, Mapping) else {}


def mappings(items: object) -> Iterator[tuple[int, Node]]:
    """Yield the entries of a list that are mappings, with their places; nothing for what is no list."""
    if isinstance(items, list):
        yield from ((index, item) for index, item in enumerate(items) if isinstance(item, Mapping))


def merged(template: Node, ours: Node) -> dict[str, Any]:
    """Return a strategic merge of ours over the user's template; neither is changed.

    Mappings merge, containers merge by name, entries of the other keyed lists (env, volumes, mounts, tolerations) are
    replaced by ours of the same key, and everything else of ours wins.
    """
    result = copy.deepcopy(dict(template))
    for key, value in ours.items():
        theirs = result.get(key)
        if isinstance(value, Mapping) and isinstance(theirs, Mapping):
            result[key] = merged(theirs, value)
        elif key in MERGE_KEYS and isinstance(theirs, list):
            result[key] = _merged_list(theirs, value, MERGE_KEYS[key], deep=key == "containers")
        else:
            result[key] = copy.deepcopy(value)
    return result


def _merged_list(
    theirs: list[dict[str, Any]], ours: list[dict[str, Any]], key: tuple[str, ...], *, deep: bool
) -> list[dict[str, Any]]:
    """Return ours, each merged over theirs of the same key, then what only they have."""

    def name(item: Node) -> tuple[object, ...]:
        return tuple(item.get(part) for part in key)

    known = {name(item): item for item in theirs}
    first = [merged(known.get(name(item), {}), item) if deep else copy.deepcopy(item) for item in ours]
    names = {name(item) for item in ours}
    return first + [copy.deepcopy(item) for item in theirs if name(item) not in names]
