"""The place that a Checkpoint works on: a key that two of a namespace share exactly when it is the same store's path.

It holds all that tells two stores apart: endpoint, account, credentials, the volume behind a path. Two spellings that
are taken for two places cost a little work, since the store refuses the second commit; two places that were taken for
one would make a Save wait for nothing.
"""

import hashlib
import json
import posixpath
from collections.abc import Iterator, Mapping
from typing import Final
from urllib.parse import urlsplit

from dcp_contract.sections import Storage
from dcp_operator.api.json_types import ReadBody
from dcp_operator.api.naming import WORKER_CONTAINER

_ALIASES: Final = {"abfs": "az"}
_ENDPOINTS: Final = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL")
"""In the order in which the engine asks for them."""
_ACCOUNT: Final = "AZURE_STORAGE_ACCOUNT_NAME"
_OF_STORES: Final = ("AWS_", "AZURE_", "GOOGLE_")
_OF_ONE_POD: Final = {"emptyDir", "ephemeral"}
"""Volumes that no other pod ever sees."""
_DEFAULT_PORTS: Final = {None: "", 80: "", 443: ""}


def place(storage: Storage, secret: str, template: ReadBody, uid: str) -> str:
    """Return the key.

    Args:
        storage: Where the checkpoint stands.
        secret: Name of the credentials Secret; empty where there is none.
        template: spec.workers.podTemplate, of any shape.
        uid: The Checkpoint's own: what nobody can share with it has this in its key.
    """
    name, _, rest = storage.url.partition("://")
    worker = _worker(template)
    if name == "memory":
        found: list[object] = [uid, rest]
    elif name == "file":
        found = _on_volume(rest, worker, template, uid)
    else:
        found = [*_in_store(name, storage, worker), secret]
    return json.dumps([_ALIASES.get(name, name), *found], default=str)


def inside(outer: str, inner: str) -> bool:
    """Tell whether the place of one key lies below that of another; in a bucket, whoever's credentials are used."""
    first, second = json.loads(outer), json.loads(inner)
    path = -1 if first[0] in {"file", "memory"} else -2
    if len(first) != len(second):
        return False
    beside = [[part for at, part in enumerate(each) if at < len(each) + path] for each in (first, second)]
    return bool(beside[0] == beside[1] and f"{second[path]}".startswith(f"{first[path]}/" if first[path] else ""))


def _in_store(name: str, storage: Storage, worker: ReadBody) -> list[object]:
    env = {str(each.get("name")): each.get("value", each.get("valueFrom")) for each in _mappings(worker.get("env"))}
    bucket, _, path = storage.url.partition("://")[2].partition("/")
    container, _, account = bucket.partition("@") if name in {"az", "abfs"} else (bucket, "", "")
    endpoint = storage.options.get("endpointUrl") or next(filter(None, map(env.get, _ENDPOINTS)), "")
    others = {
        key: value
        for key, value in env.items()
        if key.startswith(_OF_STORES) and key not in {*_ENDPOINTS, _ACCOUNT} and value is not None
    }
    return [
        _address(endpoint),
        account.partition(".")[0] or storage.options.get("accountName") or env.get(_ACCOUNT) or "",
        _digest([others, worker.get("envFrom")]) if others or worker.get("envFrom") else "",
        container.lower(),
        _normal(path),
    ]


def _address(endpoint: object) -> object:
    """Return an endpoint without what may be spelt in two ways; what is read from elsewhere as it stands."""
    if not isinstance(endpoint, str):
        return endpoint
    try:
        parts = urlsplit(endpoint)
        port = _DEFAULT_PORTS.get(parts.port, f":{parts.port}")
    except ValueError:
        return endpoint
    return f"{(parts.hostname or '').rstrip('.')}{port}{parts.path.rstrip('/')}" if parts.hostname else endpoint


def _on_volume(path: str, worker: ReadBody, template: ReadBody, uid: str) -> list[object]:
    """Return the volume behind a path, by what it is and not by what the template calls it, and the path in it."""
    mounts = [(_normal(str(each.get("mountPath", ""))), each) for each in _mappings(worker.get("volumeMounts"))]
    inside = [(at, each) for at, each in mounts if f"{_normal(path)}/".startswith(f"{at}/") or not at]
    if not inside:
        return ["", _normal(path)]
    at, mount = max(inside, key=lambda each: len(each[0]))
    spec = template.get("spec")
    volumes = _mappings(spec.get("volumes") if isinstance(spec, Mapping) else None)
    volume = next((each for each in volumes if each.get("name") == mount.get("name")), {})
    source = {key: value for key, value in volume.items() if key != "name"}
    claim = source.get("persistentVolumeClaim")
    what: object = _digest(source)
    if isinstance(claim, Mapping):
        what = claim.get("claimName")
    elif not source or not _OF_ONE_POD.isdisjoint(source):
        what = uid
    where = mount.get("subPathExpr") or mount.get("subPath") or ""
    return [what, _normal(f"{where}/{_normal(path).removeprefix(at)}")]


def _worker(template: ReadBody) -> ReadBody:
    spec = template.get("spec")
    containers = _mappings(spec.get("containers") if isinstance(spec, Mapping) else None)
    return next((each for each in containers if each.get("name") == WORKER_CONTAINER), {})


def _mappings(items: object) -> Iterator[ReadBody]:
    if isinstance(items, list):
        yield from (item for item in items if isinstance(item, Mapping))


def _normal(path: str) -> str:
    return posixpath.normpath(f"/{path}").strip("/")


def _digest(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()[:16]
