"""What a podTemplate may hold: a strategic merge into our pods, minus what would undo their isolation."""

import copy
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from dcp_operator.checkpoint.naming import WORKER_CONTAINER
from dcp_worker.contract import CREDENTIAL_KEYS

_FIELD: Final = "spec.workers.podTemplate"
_OURS: Final = {
    "securityContext": "drop it, the operator sets the restricted profile",
    "hostNetwork": "drop it",
    "hostPID": "drop it",
    "hostIPC": "drop it",
    "shareProcessNamespace": "drop it, the operator sets it so that a SIGTERM always arrives",
    "hostname": "drop it, ranks find one another by the Indexed Job's own names",
    "subdomain": "drop it, ranks find one another by the Indexed Job's own names",
    "setHostnameAsFQDN": "drop it",
    "restartPolicy": "drop it, retries are spec.retries",
    "activeDeadlineSeconds": "write spec.timeouts.activeSeconds",
    "terminationGracePeriodSeconds": "drop it, a terminated rank needs the operator's own time to report",
    "nodeName": "write nodeSelector or affinity, so that the scheduler still decides",
    "ephemeralContainers": "drop it",
}
"""Fields of a pod's spec that stay ours, each with what to write instead."""

_VOLUMES: Final = {
    "configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "persistentVolumeClaim", "projected", "secret",
}  # fmt: skip
"""Volume types of Pod Security `restricted`."""
_MERGE_KEYS: Final = {
    "containers": ("name",),
    "initContainers": ("name",),
    "volumes": ("name",),
    "env": ("name",),
    "volumeMounts": ("mountPath",),
    "tolerations": ("key", "effect"),
}
_TOKEN_PATH: Final = "/var/run/secrets/kubernetes.io/serviceaccount"  # noqa: S105 - where a token would be, not a token
_SECRET_ENV: Final = frozenset(key for keys in CREDENTIAL_KEYS.values() for key in keys) - {
    "AZURE_STORAGE_ACCOUNT_NAME", "AZURE_CLIENT_ID", "AZURE_TENANT_ID",
}  # fmt: skip
_WORKER_OURS: Final = {
    "image": "write spec.workers.image",
    "command": "write spec.workload.entrypoint",
    "args": "write spec.workload.args",
}


def template_problems(template: Mapping[str, Any]) -> Iterator[str]:
    """Yield one line for each thing in a podTemplate that the operator refuses."""
    for key in sorted(template.keys() - {"metadata", "spec"}):
        yield f"{_FIELD}.{key}: unknown field; write metadata (labels, annotations) or spec"
    metadata, spec = template.get("metadata", {}), template.get("spec", {})
    if not isinstance(metadata, Mapping) or not isinstance(spec, Mapping):
        yield f"{_FIELD}: metadata and spec have the wrong type; write mappings"
        return
    for key in sorted(metadata.keys() - {"labels", "annotations"}):
        yield f"{_FIELD}.metadata.{key}: is not accepted; write labels or annotations"
    for key, instead in _OURS.items():
        if spec.get(key) not in (None, False):
            yield f"{_FIELD}.spec.{key}: is not accepted; {instead}"
    if spec.get("automountServiceAccountToken"):
        yield f"{_FIELD}.spec.automountServiceAccountToken: workers get no API token; drop it"
    yield from _shape_problems(f"{_FIELD}.spec", spec, ("containers", "initContainers", "volumes", "tolerations"))
    yield from _volume_problems(spec)
    for kind in ("containers", "initContainers"):
        for index, container in _mappings(spec.get(kind)):
            yield from _container_problems(f"{_FIELD}.spec.{kind}[{index}]", container)


def mounted_paths(template: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the paths at which the template mounts volumes into the worker container."""
    spec = template.get("spec") or {}
    return tuple(
        str(mount["mountPath"])
        for _, container in _mappings(spec.get("containers"))
        if container.get("name") == WORKER_CONTAINER
        for _, mount in _mappings(container.get("volumeMounts"))
        if mount.get("mountPath")
    )


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
        elif key in _MERGE_KEYS and isinstance(theirs, list):
            result[key] = _merged_list(theirs, value, _MERGE_KEYS[key], deep=key == "containers")
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


def _volume_problems(spec: Mapping[str, Any]) -> Iterator[str]:
    for index, volume in _mappings(spec.get("volumes")):
        field = f"{_FIELD}.spec.volumes[{index}]"
        for kind in sorted(volume.keys() - {"name"} - _VOLUMES):
            yield f"{field}.{kind}: is not accepted; write one of: {', '.join(sorted(_VOLUMES))}"
        projected = volume.get("projected")
        sources = projected.get("sources") if isinstance(projected, Mapping) else None
        if any("serviceAccountToken" in source for _, source in _mappings(sources)):
            yield f"{field}.projected: workers get no API token; drop the serviceAccountToken source"


def _shape_problems(field: str, node: Mapping[str, Any], lists: tuple[str, ...]) -> Iterator[str]:
    """Yield what `merged` could not merge: the API server would refuse it too, but it gets to see the Job alone."""
    for key in lists:
        items = node.get(key, [])
        if not isinstance(items, list) or not all(isinstance(item, Mapping) for item in items):
            yield f"{field}.{key}: has the wrong type; write a list of mappings"
            continue
        for index, item in enumerate(items):
            for part in _MERGE_KEYS[key]:
                if not isinstance(item.get(part), str | None):
                    yield f"{field}.{key}[{index}].{part}: has the wrong type; write a string"


def _container_problems(field: str, container: Mapping[str, Any]) -> Iterator[str]:
    if not container.get("name"):
        yield f"{field}.name: is missing; write {WORKER_CONTAINER} for the ranks' container, or a name of its own"
    if container.get("securityContext") is not None:
        yield f"{field}.securityContext: is not accepted; drop it, the operator sets the restricted profile"
    for _, entry in _mappings(container.get("env")):
        if str(entry.get("name")) in _SECRET_ENV and entry.get("value"):
            yield f"{field}.env: {entry['name']} holds a secret in plain text; move it to credentialsSecretRef"
    yield from _access_problems(field, container)
    yield from _shape_problems(field, container, ("env", "volumeMounts"))
    resources = container.get("resources", {})
    if not isinstance(resources, Mapping) or not all(isinstance(each, Mapping) for each in resources.values()):
        yield f"{field}.resources: has the wrong type; write limits and requests, each a mapping"
    for key, instead in _WORKER_OURS.items():
        if container.get("name") == WORKER_CONTAINER and container.get(key) is not None:
            yield f"{field}.{key}: is not accepted in the container {WORKER_CONTAINER}; {instead}"


def _access_problems(field: str, container: Mapping[str, Any]) -> Iterator[str]:
    if any(port.get("hostPort") for _, port in _mappings(container.get("ports"))):
        yield f"{field}.ports: a hostPort is not accepted; drop it"
    for _, mount in _mappings(container.get("volumeMounts")):
        if str(mount.get("mountPath", "")).startswith(_TOKEN_PATH):
            yield f"{field}.volumeMounts: workers get no API token; drop the mount under {_TOKEN_PATH}"


def _mappings(items: object) -> Iterator[tuple[int, Mapping[str, Any]]]:
    if isinstance(items, Sequence) and not isinstance(items, str):
        yield from ((index, item) for index, item in enumerate(items) if isinstance(item, Mapping))
