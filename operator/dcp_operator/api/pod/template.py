"""What a podTemplate may hold: a strategic merge into our pods, minus what would undo their isolation."""

import copy
import posixpath
from collections.abc import Iterator, Mapping
from typing import Any, Final

from dcp_operator.api.naming import WORKER_CONTAINER
from dcp_operator.api.pod.rules import MERGE_KEYS, POD_RULES, PodSecurity
from dcp_operator.api.pod.view import mappings, pod_of

_FIELD: Final = "spec.workers.podTemplate"


def template_problems(template: Mapping[str, Any], security: PodSecurity = PodSecurity.RESTRICTED) -> Iterator[str]:
    """Yield one line for each thing in a podTemplate that the operator refuses."""
    for rule in POD_RULES:
        if rule.profile and security is PodSecurity.NAMESPACE:
            continue
        yield from (f"{_FIELD}{path}: {subject}{rule.message}" for path, subject in rule.check(template))


def mounted_paths(template: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the paths at which the template mounts volumes into the worker container."""
    return tuple(
        posixpath.normpath(str(mount["mountPath"]))
        for _, container in mappings(pod_of(template).get("containers"))
        if container.get("name") == WORKER_CONTAINER
        for _, mount in mappings(container.get("volumeMounts"))
        if mount.get("mountPath")
    )


def worker_env(template: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """Yield the environment variables that the template gives the worker container."""
    for _, container in mappings(pod_of(template).get("containers")):
        if container.get("name") == WORKER_CONTAINER:
            yield from (entry for _, entry in mappings(container.get("env")))


def merged(template: Mapping[str, Any], ours: Mapping[str, Any]) -> dict[str, Any]:
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

    def name(item: Mapping[str, Any]) -> tuple[object, ...]:
        return tuple(item.get(part) for part in key)

    known = {name(item): item for item in theirs}
    first = [merged(known.get(name(item), {}), item) if deep else copy.deepcopy(item) for item in ours]
    names = {name(item) for item in ours}
    return first + [copy.deepcopy(item) for item in theirs if name(item) not in names]
