"""A served object's body without what nobody here reads, of which there may be a megabyte."""

from typing import Final

from dcp_operator.api.bounds import TOO_DEEP, TOO_LARGE, WRITABLE, deeper, head, larger
from dcp_operator.api.checkpoint.parsing import SpecError
from dcp_operator.api.json_types import Body, ReadBody
from dcp_operator.api.naming import GROUP, KUEUE
from dcp_operator.kube.client.ownership import controller
from dcp_operator.kube.kinds.kind import Kind

_METADATA: Final = (
    "name",
    "namespace",
    "uid",
    "resourceVersion",
    "generation",
    "creationTimestamp",
    "deletionTimestamp",
    "deletionGracePeriodSeconds",
)
_READ: Final = (f"{GROUP}/", f"{KUEUE}/")
_FINDING: Final = "unkept"
"""Where a kept body says in what its spec goes beyond its bounds; empty where the spec is kept whole."""
_DEEP: Final = "deep"
_LARGE: Final = "large"


def kept(kind: Kind, body: Body) -> Body:
    """Return what is kept of a body. Its spec is judged by its bounds here, once per change, and nowhere else.

    Left out are labels, annotations and owners of other people, managed fields, and a spec that goes beyond its bounds.
    """
    metadata = body["metadata"]
    made: Body = {"metadata": {key: metadata[key] for key in _METADATA if key in metadata}}
    for field in ("labels", "annotations"):
        if said := metadata.get(field):
            made["metadata"][field] = {key: value for key, value in said.items() if key.startswith(_READ)}
    if owner := controller(body):
        made["metadata"]["ownerReferences"] = [owner]
    spec, finding = body.get("spec") or {}, _finding(kind, body)
    made |= {"spec": head(spec) if finding else spec, "status": body.get("status") or {}, _FINDING: finding}
    return made


def unkept(body: ReadBody) -> SpecError | None:
    """Return what is wrong with a kept body whose spec is not kept; None where it is."""
    finding = body.get(_FINDING)
    if not finding:
        return None
    return SpecError([f"spec: {TOO_DEEP}"], writable=False) if finding == _DEEP else SpecError([TOO_LARGE])


def _finding(kind: Kind, body: ReadBody) -> str:
    if _FINDING in body:
        # Our own write: the spec is the one that was judged.
        return str(body[_FINDING])
    spec = body.get("spec") or {}
    if deeper(spec, WRITABLE):
        return _DEEP
    # What has begun was accepted once, and is never judged again.
    return _LARGE if larger(spec) and not kind.has_begun(body, None) else ""
