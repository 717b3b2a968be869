"""Saves that a training makes by itself, in few words: what its agent lists, and the Checkpoint that tells of it."""

from datetime import datetime
from typing import Any, Final

from dcp_contract.checkpoint_info import CheckpointInfo
from dcp_contract.reasons import Reason
from dcp_contract.report import RankFailure
from dcp_contract.training import AgentState, EndedSave
from dcp_operator.api.naming import report_name
from dcp_operator.controllers.series.runs import SeriesRun
from dcp_operator.controllers.target.observed import ConnectedAgent
from dcp_operator.controllers.target.reported import save_of
from scenes import NOW
from series_scenes import PREFIX, TARGET
from series_world import save_id

LABELS: Final = {"batch.kubernetes.io/job-name": "train", "app": "x"}
ADOPTS: Final = {**TARGET, "spec.every": None}
"""What makes the usual series one that has no schedule and takes what its training saves."""


def own(step: int, url: str | None = None, **fields: Any) -> EndedSave:
    """Return a save of a step that the training made by itself."""
    where = f"{PREFIX}/step-{step}" if url is None else url
    info = CheckpointInfo(url=where, save_id=save_id(f"step-{step}"), step=step, bytes=2048, files=2, world_size=2)
    given: dict[str, Any] = {"step": step, "url": where, "seconds": 2.0, "blocked_seconds": 0.25, "checkpoint": info}
    return EndedSave(id=f"report-{step}", requested=False, **given | fields)


def failed(step: int, reason: Reason = Reason.STORAGE_FULL) -> EndedSave:
    """Return one that has failed."""
    return own(step, checkpoint=None, failure=RankFailure(reason=reason, message="why", rank=1))


def agent(*ended: EndedSave, labels: dict[str, str] | None = None, **state: Any) -> ConnectedAgent:
    """Return an agent that lists saves, from a pod of the target."""
    given: dict[str, Any] = {"group": "g1", "world": 2, "prefix": PREFIX, "step": 7, "ended": list(ended)}
    said = AgentState(**given | state)
    known = LABELS if labels is None else labels
    return ConnectedAgent(pod="rank0", pod_uid="u0", state=said, heard=NOW, labels=known)


def report(of: EndedSave, created: datetime = NOW, **fields: Any) -> SeriesRun:
    """Return the Checkpoint that tells of a save, as the series sees it."""
    name, url = report_name("nightly", of.step, save_of(of)), of.url
    given: dict[str, Any] = {"name": name, "uid": f"uid-{name}", "operation": "Save", "url": url, "step": of.step}
    given |= {"created": created, "reports": save_of(of)}
    return SeriesRun(**given | fields)
