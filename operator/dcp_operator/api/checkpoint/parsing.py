"""A manifest or a live object made into a Checkpoint, or what is wrong with it, in lines that say how to mend it."""

import copy
import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, Final

from pydantic import AwareDatetime, ConfigDict, ValidationError

from dcp_contract.message import Wire
from dcp_operator.api.bounds import FREE_FORM, LEVELS, TOO_DEEP, TOO_LARGE, deeper, larger
from dcp_operator.api.checkpoint.in_store import StoreUse, as_written, in_store_problems
from dcp_operator.api.checkpoint.rules import rule_problems
from dcp_operator.api.checkpoint.spec import Checkpoint, CheckpointSpec
from dcp_operator.api.envelope import envelope_problems
from dcp_operator.api.naming import DISRUPTION_LABEL, KIND, NAME_LIMIT, QUEUE_LABEL, REPORTED_LABEL, queue_labels
from dcp_operator.api.problems import SpecError, problems
from dcp_operator.api.site import CLUSTER, Site

_TOO_DEEP: Final = f"spec: {TOO_DEEP}"
_FIELD_LEVELS: Final = 8


class _ObjectMeta(Wire):
    """What is read of an object's metadata; the API server vouches for it, a file on this machine does not."""

    model_config = ConfigDict(extra="ignore")

    name: Any = None
    """Looked at with the envelope, which says more about it."""
    namespace: str | None = None
    uid: str | None = None
    generation: int | None = None
    creation_timestamp: AwareDatetime | None = None
    deletion_timestamp: AwareDatetime | None = None
    labels: dict[str, str] | None = None


def parse(body: Mapping[str, Any], *, site: Site = CLUSTER, begun: bool = False, measured: bool = False) -> Checkpoint:
    """Return the Checkpoint of a manifest or of a live object.

    `dcp run` passes `site=LOCAL`, which accepts what only makes sense on one machine.

    Args:
        body: The manifest.
        site: Where it is to run.
        begun: An attempt was made of it, so it was accepted once. Rules of today no longer apply to it, and what can't
            be read is left out, as long as the rest makes sense: an operator that is newer, older or configured
            otherwise brings it to its end.
        measured: Its spec was found to be no larger than it may be: that takes as long as to write it out.

    Raises:
        SpecError: with every problem found; the object's author mends them.
    """
    try:
        parsed = _begun(body) if begun else _parsed(body, site, measured=measured)
        return replace(parsed, cluster_id=site.cluster_id)
    except SpecError as error:
        if not begun and _accepted(body, site.widest(), measured=measured):
            error.configured = True
        raise
    except Exception as error:
        # Free-form fields hold what nobody thought of. It is that object's trouble, never that of the others.
        raise SpecError(
            [f"spec: can't be read ({type(error).__name__}); write each value with its own type"]
        ) from error


def _accepted(body: Mapping[str, Any], site: Site, *, measured: bool) -> bool:
    try:
        _parsed(body, site, measured=measured)
    except Exception:  # noqa: BLE001 - it was refused already, for a reason that is told
        return False
    return True


def _begun(body: Mapping[str, Any]) -> Checkpoint:
    """Return a Checkpoint without its fields that can't be read."""
    spec: Any = copy.deepcopy(body.get("spec"))
    unread: list[str] = []
    while (error := _finding(spec)) is not None:
        # One at a time: several findings may be about one field.
        unread += list(problems(error, CheckpointSpec, "spec"))[:1]
        if not _left_out(spec, error.errors()[0]["loc"]):
            break
    return replace(_parsed({**body, "spec": spec}, None), unread=tuple(unread))


def _finding(spec: object) -> ValidationError | None:
    try:
        _validated(spec)
    except ValidationError as error:
        return error
    return None


def _left_out(spec: object, location: tuple[int | str, ...]) -> bool:
    """Remove the innermost field that a finding names; return whether there is one."""
    at, found = spec, None
    for part in location:
        if not isinstance(at, dict) or part not in at:
            break
        found, at = (at, part), at[part]
    if found is None:
        return False
    del found[0][found[1]]
    return True


def _validated(spec: object) -> CheckpointSpec:
    text = json.dumps(without_nulls(spec), allow_nan=False)
    return CheckpointSpec.model_validate_json(text, strict=True, by_alias=True, by_name=False)


def without_nulls(value: object, at: tuple[str, ...] = ()) -> object:
    """Return a spec without the fields that are null: as in an API server, null says the same as a field left out.

    In a free-form field null is a value, also in the template of a series. No field with a schema lies deeper than
    _FIELD_LEVELS.
    """
    if not isinstance(value, Mapping) or at[-2:] in FREE_FORM or len(at) > _FIELD_LEVELS:
        return value
    return {key: without_nulls(inner, (*at, key)) for key, inner in value.items() if inner is not None}


def _parsed(body: Mapping[str, Any], site: Site | None, *, measured: bool = True) -> Checkpoint:
    """Return the Checkpoint; no site, no rules."""
    whole = as_written(body)
    found = list(envelope_problems(whole, KIND, example="save-1000", limit=NAME_LIMIT, why="is a label too"))
    metadata: _ObjectMeta | None = None
    spec: CheckpointSpec | None = None
    try:
        metadata = _ObjectMeta.model_validate(body.get("metadata") or {})
    except ValidationError as error:
        found += problems(error, _ObjectMeta, "metadata")
    try:
        spec = _validated(body.get("spec"))
    except ValidationError as error:
        found += problems(error, CheckpointSpec, "spec")
    except RecursionError:
        found.append(_TOO_DEEP)
    except (TypeError, ValueError):
        found.append("spec: holds a value that JSON does not have, such as a date or NaN; write it in quotes")
    found += _place_problems(spec) if spec is not None else ()
    if spec is not None and site is not None:
        found += [*_bound_problems(body.get("spec"), measured=measured), *rule_problems(spec, site)]
    if found or metadata is None or spec is None:
        raise SpecError(found)
    return Checkpoint(
        name=metadata.name,
        namespace=metadata.namespace or "default",
        uid=metadata.uid or "",
        generation=metadata.generation or 1,
        created=metadata.creation_timestamp or datetime.fromtimestamp(0, UTC),
        deleting=metadata.deletion_timestamp is not None,
        queue=(metadata.labels or {}).get(QUEUE_LABEL, ""),
        before_disruption=(metadata.labels or {}).get(DISRUPTION_LABEL) == "true",
        spec=spec,
        queue_labels=queue_labels(metadata.labels or {}),
        reported=(metadata.labels or {}).get(REPORTED_LABEL, ""),
        store=StoreUse.of(body),
    )


def _place_problems(spec: CheckpointSpec) -> Iterator[str]:
    """Yield what is wrong with a spec that says nowhere, or twice, where: also one that was accepted once."""
    latest, url = spec.storage.latest_of is not None, bool(spec.storage.url)
    if spec.storage.is_in_store:
        yield from in_store_problems("spec.storage", spec.storage)
    elif latest and url:
        yield "spec.storage: has url and latestOf; write one of them"
    elif not latest and not url and spec.target is None:
        yield "spec.storage.url: is missing; write one such as s3://bucket/run/step-1000"


def _bound_problems(spec: Any, *, measured: bool) -> Iterator[str]:  # noqa: ANN401 - JSON
    for section, field in FREE_FORM:
        if deeper((spec.get(section) or {}).get(field), LEVELS):
            yield f"spec.{section}.{field}: {TOO_DEEP}"
    if not measured and larger(spec):
        yield TOO_LARGE
