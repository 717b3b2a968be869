"""What is wrong with a manifest around its spec: group and version, kind, fields, and the name."""

from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import AwareDatetime, ConfigDict

from dcp_contract.message import Wire
from dcp_operator.api.naming import API_VERSION, LABEL


class ObjectMeta(Wire):
    """What is read of the metadata of a series or a store."""

    model_config = ConfigDict(extra="ignore")

    name: Any = None
    namespace: str | None = None
    uid: str | None = None
    generation: int | None = None
    creation_timestamp: AwareDatetime | None = None


def envelope_problems(body: Mapping[str, Any], kind: str, *, example: str, limit: int, why: str) -> Iterator[str]:
    """Yield what is wrong, each with the fix.

    Args:
        body: The manifest.
        kind: The kind that it is to be of.
        example: A name such as may be written.
        limit: How long a name may be.
        why: What a name is used for, which limits it.
    """
    if body.get("apiVersion", API_VERSION) != API_VERSION:
        yield f"apiVersion: is another group or version; write {API_VERSION}"
    if body.get("kind", kind) != kind:
        yield f"kind: is another kind; write {kind}"
    for key in body.keys() - {"apiVersion", "kind", "metadata", "spec", "status"}:
        yield f"{key}: unknown field; write apiVersion, kind, metadata, spec"
    metadata = body.get("metadata")
    name = metadata.get("name") if isinstance(metadata, Mapping) else None
    if not isinstance(name, str) or not name:
        yield f"metadata.name: is missing; write a name such as {example}"
    elif not LABEL.fullmatch(name) or len(name) > limit:
        yield f"metadata.name: {why}; write at most {limit} of a-z, 0-9 and '-', with no '-' at the ends"
