"""Who saved, as a manifest says it: what is newer than `origin` stands beside it.

A reader of an earlier release refuses an `origin` with a field that it does not know, and with it the checkpoint. In
the manifest itself it ignores such a field.
"""

from collections.abc import Mapping
from typing import Any, Final

from dcp_contract.checkpoint_info import Origin, Provenance

_BESIDE: Final = ("clusterId", "specDigest")


def encoded(origin: Origin | None) -> dict[str, Any]:
    """Return the fields of a manifest that say who saved."""
    if origin is None:
        return {"origin": None}
    told = origin.to_dict()
    return {"origin": origin.bare().to_dict(), **{name: told[name] for name in _BESIDE if told.get(name)}}


def decoded(document: Mapping[str, Any]) -> Origin | None:
    """Return who saved; a Provenance where a manifest says in which cluster, or by which spec.

    Raises:
        ValueError: the fields are none of those.
    """
    if not document["origin"]:
        return None
    beside = {name: document[name] for name in _BESIDE if name in document}
    return (Provenance if beside else Origin).model_validate({**document["origin"], **beside})
