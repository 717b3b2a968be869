"""What a decision about a series asks for, as data. Each may be carried out twice."""

from dataclasses import dataclass
from datetime import datetime

from dcp_operator.api.json_types import Body
from dcp_operator.controllers.decision import Decision


@dataclass(frozen=True, kw_only=True)
class CreateRun:
    """Create the Checkpoint of a run."""

    name: str
    scheduled: datetime


@dataclass(frozen=True, kw_only=True)
class CreateReport:
    """Create the Checkpoint that tells of a save that the training made by itself."""

    name: str
    save: str
    url: str


@dataclass(frozen=True, kw_only=True)
class CreateRemoval:
    """Create the Checkpoint that removes what a run has saved."""

    name: str
    run: str
    url: str
    save_id: str
    storage: Body
    """With which options and credentials."""


@dataclass(frozen=True, kw_only=True)
class DeleteRun:
    """Delete a Checkpoint of the series, with its Jobs. Data are not touched by that."""

    name: str
    why: str


SeriesAction = CreateRun | CreateReport | CreateRemoval | DeleteRun
SeriesDecision = Decision[SeriesAction]
"""What to do now for a series."""
