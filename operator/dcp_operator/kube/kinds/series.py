"""The CheckpointSeries as a Kind. What it owns is itself served: `view.series_runs` keeps it, not the cache."""

from typing import Final

from dcp_operator.api.checkpoint.in_store import KEY as IN_STORE
from dcp_operator.api.json_types import Body, ReadBody
from dcp_operator.api.series.parsing import parse
from dcp_operator.api.series.spec import Series
from dcp_operator.api.site import Site
from dcp_operator.controllers.series.actions import CreateRemoval, CreateReport, CreateRun, DeleteRun, SeriesAction
from dcp_operator.controllers.series.decide import decide, refuse
from dcp_operator.controllers.series.runs import Runs
from dcp_operator.kube.client.api import SERIES
from dcp_operator.kube.kinds.kind import Deletion, Kind
from dcp_operator.objects.series_run import checkpoint_of_removal, checkpoint_of_report, checkpoint_of_run


def _parse(body: ReadBody, site: Site, begun: bool) -> Series:  # noqa: FBT001 - as Kind has it
    del begun
    known = {"metadata": body["metadata"], "spec": body.get("spec"), IN_STORE: body.get(IN_STORE)}
    return parse(known, site=site, measured=True)


def _build(series: Series, action: SeriesAction) -> tuple[Body, ...]:
    match action:
        case CreateRun():
            return (checkpoint_of_run(series, action),)
        case CreateReport():
            return (checkpoint_of_report(series, action),)
        case CreateRemoval():
            return (checkpoint_of_removal(series, action),)
        case _:
            return ()


def _deletes(action: SeriesAction) -> Deletion | None:
    return Deletion(action.name, action.why) if isinstance(action, DeleteRun) else None


CHECKPOINT_SERIES: Final[Kind[Series, Runs, SeriesAction]] = Kind(
    resource=SERIES,
    parse=_parse,
    is_finished=lambda _: False,
    observe=lambda _: Runs(),
    decide=decide,
    refuse=refuse,
    build=_build,
    deletes=_deletes,
)
