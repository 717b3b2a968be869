"""A manifest or a live object made into a CheckpointStore, or what is wrong with it and how to mend it."""

import json
import re
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any, Final

from pydantic import ValidationError

from dcp_operator.api.bounds import TOO_DEEP, TOO_LARGE, larger
from dcp_operator.api.checkpoint.parsing import without_nulls
from dcp_operator.api.envelope import ObjectMeta, envelope_problems
from dcp_operator.api.naming import NAME_LIMIT, STORE_KIND
from dcp_operator.api.problems import SpecError, problems
from dcp_operator.api.site import CLUSTER, Site
from dcp_operator.api.storage_url import option_problems, protocol, url_problems
from dcp_operator.api.store.spec import LONGEST_INTERVAL, SHORTEST_INTERVAL, CheckpointStore, StoreSpec

_EPOCH: Final = datetime.fromtimestamp(0, UTC)
WITHOUT_VOLUME: Final = (
    "is a path in a pod, and a store brings no volume; write s3://bucket/prefix, or the path in spec.storage.url of "
    "each Checkpoint"
)


def parse(body: Mapping[str, Any], *, site: Site = CLUSTER, measured: bool = False) -> CheckpointStore:
    """Return the CheckpointStore of a manifest or of a live object.

    Args:
        body: The manifest.
        site: Where it is to be used.
        measured: Its spec was found to be no larger than it may be.

    Raises:
        SpecError: with every problem found; the object's author mends them.
    """
    found = list(
        envelope_problems(
            body, STORE_KIND, example="team-bucket", limit=NAME_LIMIT, why="the names of its validations begin with it"
        )
    )
    metadata, spec = ObjectMeta(), None
    try:
        metadata = ObjectMeta.model_validate(body.get("metadata") or {})
        spec = _validated(body.get("spec"))
    except ValidationError as error:
        of_spec = error.title == StoreSpec.__name__
        found += problems(error, StoreSpec if of_spec else ObjectMeta, "spec" if of_spec else "metadata")
    except RecursionError:
        found.append(f"spec: {TOO_DEEP}")
    except (TypeError, ValueError):
        found.append("spec: holds a value that JSON does not have, such as a date or NaN; write it in quotes")
    if spec is None:
        raise SpecError(found)
    if not measured and larger(body.get("spec")):
        found.append(TOO_LARGE)
    own = list(_spec_problems(spec, site))
    if found or own:
        raise SpecError(found + own, configured=not found and not list(_spec_problems(spec, site.widest())))
    return CheckpointStore(
        name=metadata.name,
        namespace=metadata.namespace or "default",
        uid=metadata.uid or "",
        generation=metadata.generation or 1,
        created=(metadata.creation_timestamp or _EPOCH).replace(microsecond=0),
        spec=spec,
    )


def _validated(spec: object) -> StoreSpec:
    text = json.dumps(without_nulls(spec), allow_nan=False)
    return StoreSpec.model_validate_json(text, strict=True, by_alias=True, by_name=False)


def _spec_problems(spec: StoreSpec, site: Site) -> Iterator[str]:
    # Judged as what stands in it: a whole bucket is a prefix.
    inside = f"{spec.url.rstrip('/')}/any" if re.search("://[^/]|^file:", spec.url) else spec.url
    yield from url_problems("spec.url", inside, site.protocols)
    if site.file_needs_volume and protocol(spec.url) in {"file", "memory"}:
        yield f"spec.url: {WITHOUT_VOLUME}"
    yield from (each.replace("spec.storage.", "spec.") for each in option_problems(spec))
    if not SHORTEST_INTERVAL <= spec.interval <= LONGEST_INTERVAL:
        yield "spec.validationInterval: is no time between two validations; write one such as 30m, from 1m to 168h"
