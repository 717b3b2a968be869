"""The digest of what a spec says of what is saved: two Saves with the same digest ask for the same checkpoint.

It is compared with digests that earlier releases wrote into manifests, so nothing in it may change: neither a field nor
its name, nor how a value is written. A field that holds its default is left out, so a later field changes no digest.

What says how the same values are saved is no part of it: ranks, sharding, image, credentials and options of the store.
"""

import hashlib
import json
from typing import Any, Final

from dcp_contract.save_fields import SaveFields
from dcp_contract.sections import Source, Workload

FIELDS: Final = "runId, storage.url, workload.entrypoint, workload.args, save.steps and save.from"
"""What the digest is made of, for people."""
_LENGTH: Final = 32


def spec_digest(run_id: str, url: str, workload: Workload | None, save: SaveFields) -> str:
    """Return the digest of what a Save's spec says, in 32 hexadecimal digits."""
    told = {
        "runId": run_id,
        "url": _url(url),
        "entrypoint": workload.entrypoint if workload is not None else "",
        "args": workload.args if workload is not None else {},
        "steps": save.steps,
        "from": _source(save.from_) if save.from_ is not None else {},
    }
    text = json.dumps(
        _plain({name: each for name, each in told.items() if each}), sort_keys=True, separators=(",", ":")
    )
    return hashlib.sha256(text.encode()).hexdigest()[:_LENGTH]


def _source(source: Source) -> dict[str, Any]:
    lists = {"include": source.include, "exclude": source.exclude}
    chosen: dict[str, Any] = {name: globs for name, globs in lists.items() if globs}
    places = {field: _url(getattr(source, field)) for field in source.given}
    return {**places, **chosen, **({} if source.strict else {"strict": False})}


def _url(url: str) -> str:
    return url.rstrip("/")


def _plain(value: Any) -> Any:  # noqa: ANN401 - JSON
    """Return JSON in which a number has one spelling: an API server makes 1 of 1.0, and a file keeps it."""
    if isinstance(value, dict):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_plain(inner) for inner in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value
