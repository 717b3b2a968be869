"""A manifest or a live object made into a Series, or what is wrong with it, in lines that say how to mend it.

What a run may be is what a Checkpoint may be. So the Checkpoint of a run is made and parsed, and what is said of it is
said of the template.
"""

import json
import re
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from pydantic import ValidationError

from dcp_contract.message import Wire
from dcp_operator.api.bounds import TOO_DEEP, TOO_LARGE, larger
from dcp_operator.api.checkpoint.in_store import StoreUse, as_written, in_store_problems
from dcp_operator.api.checkpoint.operations import rules_of
from dcp_operator.api.checkpoint.parsing import parse as parse_checkpoint
from dcp_operator.api.checkpoint.parsing import without_nulls
from dcp_operator.api.envelope import ObjectMeta, envelope_problems
from dcp_operator.api.naming import (
    API_VERSION,
    GROUP,
    KIND,
    SERIES_KIND,
    SERIES_NAME_LIMIT,
    run_name,
)
from dcp_operator.api.problems import SpecError, problems
from dcp_operator.api.series.cel_rules import NO_ADOPTION
from dcp_operator.api.series.schedule import Schedule, ScheduleError
from dcp_operator.api.series.spec import LONGEST_HOLD, Series, SeriesSpec
from dcp_operator.api.site import CLUSTER, Site
from dcp_operator.api.storage_url import option_problems, url_problems

_TOO_DEEP: Final = f"spec: {TOO_DEEP}"
_EPOCH: Final = datetime.fromtimestamp(0, UTC)


def parse(body: Mapping[str, Any], *, site: Site = CLUSTER, measured: bool = False) -> Series:
    """Return the Series of a manifest or of a live object.

    Args:
        body: The manifest.
        site: Where it is to run.
        measured: Its spec was found to be no larger than it may be.

    Raises:
        SpecError: with every problem found; the object's author mends them.
    """
    found = list(
        envelope_problems(
            as_written(body),
            SERIES_KIND,
            example="nightly",
            limit=SERIES_NAME_LIMIT,
            why="its runs' names begin with it",
        )
    )
    metadata, spec = ObjectMeta(), None
    try:
        metadata = ObjectMeta.model_validate(body.get("metadata") or {})
        spec = _validated(body.get("spec"))
    except ValidationError as error:
        of_spec = error.title == SeriesSpec.__name__
        found += problems(error, SeriesSpec if of_spec else ObjectMeta, "spec" if of_spec else "metadata")
    except RecursionError:
        found.append(_TOO_DEEP)
    except (TypeError, ValueError):
        found.append("spec: holds a value that JSON does not have, such as a date or NaN; write it in quotes")
    if spec is None:
        raise SpecError(found)
    if not measured and larger(body.get("spec")):
        found.append(TOO_LARGE)
    created = (metadata.creation_timestamp or _EPOCH).replace(microsecond=0)
    schedule = _schedule(spec, created)
    if isinstance(schedule, ScheduleError):
        found.append(str(schedule))
    found += [*_template_problems(spec), *_prefix_problems(spec, site)]
    configured = not found
    if not found and isinstance(schedule, Schedule):
        series = _series(metadata, spec, schedule, created, StoreUse.of(body))
        try:
            parse_checkpoint(_a_run(series), site=site, measured=True)
        except SpecError as error:
            found = [_of_template(each, series) for each in error.problems]
            configured = error.configured
        else:
            return series
    raise SpecError(found, configured=configured)


def _validated(spec: object) -> SeriesSpec:
    text = json.dumps(without_nulls(spec), allow_nan=False)
    return SeriesSpec.model_validate_json(text, strict=True, by_alias=True, by_name=False)


def _schedule(spec: SeriesSpec, created: datetime) -> Schedule | ScheduleError:
    try:
        return Schedule.of(
            cron=spec.schedule,
            zone=spec.time_zone,
            every=spec.every,
            created=created,
            immediate=spec.immediate,
            adopts=spec.template.spec.target is not None and spec.storage is not None,
        )
    except ScheduleError as error:
        return error


def _series(
    metadata: ObjectMeta, spec: SeriesSpec, schedule: Schedule, created: datetime, store: StoreUse | None
) -> Series:
    run_spec = _json(spec.template.spec)
    storage = _json(spec.storage) if spec.storage is not None else {}
    if storage and spec.template.spec.target is None:
        run_spec["storage"] = storage
    return Series(
        name=metadata.name,
        namespace=metadata.namespace or "default",
        uid=metadata.uid or "",
        generation=metadata.generation or 1,
        created=created,
        spec=spec,
        schedule=schedule,
        run_spec=run_spec,
        storage=storage,
        store=store,
    )


def _json(model: Wire) -> dict[str, Any]:
    """Return what was written, and nothing that was not: the API server fills in defaults by itself."""
    return model.model_dump(mode="json", by_alias=True, exclude_unset=True)


def _a_run(series: Series) -> dict[str, Any]:
    """Return a Checkpoint as each run is, but for the end of its URL: what is wrong with the prefix shows by itself."""
    metadata = {"name": run_name(series.name, series.created), "namespace": series.namespace}
    return {"apiVersion": API_VERSION, "kind": KIND, "metadata": metadata, "spec": series.run_spec}


def _of_template(problem: str, series: Series) -> str:
    """Return what is wrong with a run as what is wrong with the series: its own storage, or its template."""
    own = "(?!storage)" if series.saves else ""
    return re.sub(rf"(?<![.\w])spec(?=:|[.]{own}[a-z])", "spec.template.spec", problem)


def _template_problems(spec: SeriesSpec) -> Iterator[str]:
    operation, own = spec.template.spec.operation, spec.storage is not None
    if operation.traits.writes:
        yield from _save_problems(spec)
    else:
        if own:
            yield f"spec.storage: is where a series saves; {operation.one} has it in spec.template.spec.storage"
        if spec.retention is not None:
            yield f"spec.retention: {operation.one} saves nothing; drop it"
        if spec.template.spec.storage is None:
            yield f"spec.template.spec.storage: is missing; write what {operation.one} reads, or where it writes"
    yield from (f"spec.template.spec.{problem}" for problem in rules_of(operation).repeated(spec.template.spec))
    yield from _disruption_problems(spec)
    for field in ("labels", "annotations"):
        for name in sorted(getattr(spec.template.metadata, field)):
            if name.partition("/")[0] == GROUP:
                yield f"spec.template.metadata.{field}: {GROUP}/ is the operator's own; drop {name[:80]}"


def _disruption_problems(spec: SeriesSpec) -> Iterator[str]:
    if spec.on_disruption is None:
        return
    if spec.template.spec.target is None:
        yield "spec.onDisruption: is for a series with a target: a training that runs; drop it"
    if not timedelta(0) < spec.on_disruption.time <= LONGEST_HOLD:
        yield "spec.onDisruption.hold: is no time that an eviction can wait; write one such as 10m, at most 24h"


def _prefix_problems(spec: SeriesSpec, site: Site) -> Iterator[str]:
    """Yield what is wrong with where it saves. No run of a training has its prefix in its spec."""
    if spec.storage is None:
        return
    if spec.storage.is_in_store:
        yield from in_store_problems("spec.storage", spec.storage)
    elif not spec.storage.url:
        yield "spec.storage.url: is missing; write one such as s3://bucket/run, or store: {name} and path"
    elif spec.template.spec.target is not None:
        yield from url_problems("spec.storage.url", spec.storage.url, site.protocols)
        yield from option_problems(spec.storage)


def _save_problems(spec: SeriesSpec) -> Iterator[str]:
    own, target = spec.storage is not None, spec.template.spec.target is not None
    if target and not own and spec.retention is not None:
        yield "spec.storage: is missing; write where the training saves, and how the retention gets there"
    if not own and not target:
        yield "spec.storage: is missing; write storage: {url: s3://bucket/run}, below which each run saves"
    if spec.template.spec.of_save.adopts:
        yield f"spec.template.spec.save.ifExists: {NO_ADOPTION}"
    if spec.template.spec.storage is not None:
        yield "spec.template.spec.storage: a Save of a series goes below spec.storage; move it there"
