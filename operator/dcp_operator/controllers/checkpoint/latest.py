"""The newest committed checkpoint of a series, for a Checkpoint that reads `storage.latestOf`.

It is looked up once for a run, and stands in the status before the first attempt is created: so all attempts read the
same, whenever the operator ends, and nobody removes it meanwhile.
"""

from dataclasses import dataclass, replace
from typing import Final

from dcp_operator.api.checkpoint.rules import rule_problems
from dcp_operator.api.checkpoint.spec import Checkpoint, SecretRef, StorageSpec
from dcp_operator.api.checkpoint.status import ReadSource, Status
from dcp_operator.api.site import Site


@dataclass(frozen=True, kw_only=True)
class LatestCheckpoint:
    """What is known of the series that a Checkpoint reads the latest of."""

    exists: bool = False
    """Whether there is such a series."""
    source: ReadSource | None = None
    """Its newest committed checkpoint; None while it has none."""


NO_SERIES: Final = LatestCheckpoint()


def with_source(checkpoint: Checkpoint, status: Status, latest: LatestCheckpoint | None = None) -> Checkpoint:
    """Return a Checkpoint with the URL that it reads: as its status says, else the latest that there is.

    What the Checkpoint says of options and credentials comes first; the rest is as the checkpoint was saved.
    """
    storage = checkpoint.spec.storage
    source = status.source if status.run_id == checkpoint.spec.run_id else None
    if source is None and latest is not None:
        source = latest.source
    if storage.latest_of is None or source is None:
        return checkpoint
    return replace(checkpoint, spec=checkpoint.spec.model_copy(update={"storage": _merged(storage, source)}))


def begins(checkpoint: Checkpoint, status: Status) -> bool:
    """Return whether a run has yet to write down what it reads."""
    if status.run_id != checkpoint.spec.run_id:
        return True
    return status.source is None and not status.phase.terminal


def problems_of_source(checkpoint: Checkpoint, site: Site) -> list[str]:
    """Return what is wrong with a Checkpoint once it is known what it reads: an option, a missing volume."""
    return list(rule_problems(checkpoint.spec, site))


def _merged(storage: StorageSpec, source: ReadSource) -> StorageSpec:
    credentials = storage.credentials_secret_ref or _reference(source.credentials_secret)
    return storage.model_copy(
        update={
            "url": source.url,
            "options": source.options | storage.options,
            "credentials_secret_ref": credentials,
            "ca_secret_ref": storage.ca_secret_ref or _reference(source.ca_secret),
            "service_account_name": storage.service_account_name or source.service_account or None,
        }
    )


def _reference(name: str) -> SecretRef | None:
    return SecretRef(name=name) if name else None
