"""The names that objects carry in a cluster: API group, labels, and what an attempt's Job is called."""

import hashlib
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Final

GROUP: Final = "dcp-operator.io"
VERSION: Final = "v1alpha1"
KIND: Final = "Checkpoint"
PLURAL: Final = "checkpoints"
SERIES_KIND: Final = "CheckpointSeries"
SERIES_PLURAL: Final = "checkpointseries"
STORE_KIND: Final = "CheckpointStore"
STORE_PLURAL: Final = "checkpointstores"
API_VERSION: Final = f"{GROUP}/{VERSION}"

MANAGED_BY_LABEL: Final = "app.kubernetes.io/managed-by"
MANAGED_BY: Final = "dcp-operator"
CHECKPOINT_LABEL: Final = f"{GROUP}/checkpoint"
"""The Checkpoint's name, for people: `kubectl get pods -l dcp-operator.io/checkpoint=NAME`."""
UID_LABEL: Final = f"{GROUP}/owner-uid"
"""The uid of the object that an object belongs to, of whatever kind: what the operator finds Jobs and Pods by."""
RUN_LABEL: Final = f"{GROUP}/run-id"
ATTEMPT_LABEL: Final = f"{GROUP}/attempt"
SERIES_LABEL: Final = f"{GROUP}/series"
"""Name of the CheckpointSeries that a Checkpoint is of: `kubectl get checkpoints -l dcp-operator.io/series=NAME`."""
REPORTED_LABEL: Final = f"{GROUP}/reported-save"
"""On a Checkpoint that tells of a save that a training made by itself: which one. It asks for no save."""
STORE_LABEL: Final = f"{GROUP}/store"
"""Name of the CheckpointStore that a Checkpoint validates: `kubectl get checkpoints -l dcp-operator.io/store=NAME`."""
PINNED_ANNOTATION: Final = f"{GROUP}/pinned"
"""On a Checkpoint of a series: what it has saved is never removed. Any value but `false` says so."""
IN_USE_ANNOTATION: Final = f"{GROUP}/in-use-until"
"""On a Checkpoint of a series: a time, before which what it has saved is not removed."""
LAST_CHECKPOINT_ANNOTATION: Final = f"{GROUP}/last-checkpoint-time"
"""On the object that a training is, such as its Job: when its newest checkpoint was committed (RFC 3339)."""
DISRUPTION_LABEL: Final = f"{GROUP}/disruption"
"""On a Checkpoint of a series that was made since a pod of its training is about to be evicted."""
EVICTED_POD_ANNOTATION: Final = f"{GROUP}/evicted-pod"
"""On such a Checkpoint: the uid of the pod that was to be evicted first."""
HOLD_LABEL: Final = f"{GROUP}/hold-evictions"
"""On a namespace, with the value `true`: evictions of its pods are put before the operator."""
BUDGET_LABEL: Final = f"{GROUP}/budget-of"
"""On a PodDisruptionBudget, and on the Jobs that it hangs on: the series whose training it is for."""
DATA_FINALIZER: Final = f"{GROUP}/data"
"""On a Checkpoint whose data are to be removed before it goes."""
PROBE_LABEL: Final = f"{GROUP}/probe"
JOB_LABEL: Final = f"{GROUP}/job"
"""The attempt's Job name: what its Service and its NetworkPolicy select pods by."""
SPEC_ANNOTATION: Final = f"{GROUP}/spec-digest"
"""Of which args, options and podTemplate an attempt's Job was made."""
GENERATION_ANNOTATION: Final = f"{GROUP}/generation"
"""Of the Checkpoint, when an attempt's Job was made: it tells a run from an earlier one of the same runId. On a
Checkpoint that validates a store: of that store."""

KUEUE: Final = "kueue.x-k8s.io"
QUEUE_LABEL: Final = f"{KUEUE}/queue-name"
INDEX_LABEL: Final = "batch.kubernetes.io/job-completion-index"
WORKER_CONTAINER: Final = "worker"

LABEL: Final = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?")
"""What a name of ours has to be, since it is a label's value too."""
NAME_LIMIT: Final = 63
"""Longest name of a Checkpoint: it becomes a label's value."""
_RUN_TIME: Final = "%Y%m%d-%H%M%S"
SERIES_NAME_LIMIT: Final = NAME_LIMIT - len("-20260131-080000")
"""Longest name of a CheckpointSeries: the names of its runs begin with it."""
_READABLE: Final = 40
_READABLE_STEPS: Final = 10**12
"""A step beyond stands in no name."""
_DIGEST: Final = 8


def job_name(name: str, uid: str, run_id: str, attempt: int) -> str:
    """Return the one name of an attempt's Job, Service and NetworkPolicy.

    It derives from (uid, run, attempt) alone, so that an operator that died between creating a Job and writing it down
    finds that Job again, and so that a rerun can't adopt the Job of an earlier run. At most 54 characters: the pods'
    host names `<job>-<index>` have to stay DNS labels. A Service's name begins with a letter; a Checkpoint's need not.
    """
    digest = hashlib.sha256(f"{uid}/{run_id}/{attempt}".encode()).hexdigest()[:_DIGEST]
    readable = name if name[:1].isalpha() else f"dcp-{name}"
    return f"{readable[:_READABLE].rstrip('-.')}-{digest}-{attempt}"


def time_in_name(scheduled: datetime) -> str:
    """Return a scheduled time as it stands in the name and the URL of the run that it began, in UTC."""
    return scheduled.astimezone(UTC).strftime(_RUN_TIME)


def run_name(series: str, scheduled: datetime) -> str:
    """Return the name of a series' run.

    It derives from the series and the scheduled time alone. So an operator that died between creating a Checkpoint and
    writing it down finds that Checkpoint again, and no run comes twice.
    """
    return f"{series}-{time_in_name(scheduled)}"


def budget_name(series: str) -> str:
    """Return the name of the PodDisruptionBudget of a series' training."""
    return f"{series}-hold"


def guard_name(series: str, uid: str, number: int) -> str:
    """Return the name of a Job that such a budget hangs on."""
    digest = hashlib.sha256(uid.encode()).hexdigest()[:_DIGEST]
    return f"{series[:_READABLE].rstrip('-')}-hold-{digest}-{number}"


def data_removal_name(name: str, uid: str) -> str:
    """Return the name of the Delete of what a deleted Checkpoint has saved, by that one's uid."""
    digest = hashlib.sha256(f"{uid}/data".encode()).hexdigest()[:_DIGEST]
    return f"{name[:_READABLE].rstrip('-')}-delete-{digest}"


def validation_name(store: str, uid: str, generation: int, after: str) -> str:
    """Return the name of the Checkpoint that validates a store.

    It follows from what is validated and from what came before, so that an operator that died between creating it and
    writing it down finds it again.

    Args:
        store: The store's name.
        uid: The store's uid.
        generation: Of the spec that is validated.
        after: When the last validation before ended; empty where there was none.
    """
    digest = hashlib.sha256(f"{uid}/{generation}/{after}".encode()).hexdigest()[:_DIGEST]
    return f"{store[:_READABLE].rstrip('-')}-validate-{digest}"


def removal_name(series: str, uid: str, save_id: str) -> str:
    """Return the name of the Delete of one save of a series' run, by the run's uid: no save is removed by two."""
    digest = hashlib.sha256(f"{uid}/{save_id}".encode()).hexdigest()[:_DIGEST]
    return f"{series[:_READABLE].rstrip('-')}-delete-{digest}"


def report_name(series: str, step: int | None, save: str) -> str:
    """Return the name of the Checkpoint of a save that a training made by itself.

    It derives from the series and the save alone: whoever creates it a second time finds the first one.

    Args:
        series: The series that takes it.
        step: The step that was saved.
        save: What `REPORTED_LABEL` says.
    """
    digest = hashlib.sha256(f"{series}/{save}".encode()).hexdigest()[:_DIGEST]
    end = f"step-{step}-{digest}" if step is not None and step < _READABLE_STEPS else f"save-{digest}"
    return f"{series[: NAME_LIMIT - len(end) - 1].rstrip('-')}-{end}"


def disruption_name(series: str, uid: str, previous: str) -> str:
    """Return the name of the Save that comes before a disruption.

    It follows from the name of the one before, empty where there is none. So of two who hear of an eviction at the same
    time both make the same name, and one of them finds the Checkpoint of the other.
    """
    digest = hashlib.sha256(f"{uid}/{previous}".encode()).hexdigest()[:_DIGEST]
    return f"{series[:_READABLE].rstrip('-')}-drain-{digest}"


def scheduled_time(series: str, name: str) -> datetime | None:
    """Return the time that began the run of this name; None where the name is none of a run of the series."""
    if not name.startswith(f"{series}-"):
        return None
    try:
        found = datetime.strptime(name.removeprefix(f"{series}-"), _RUN_TIME).replace(tzinfo=UTC)
    except ValueError:
        return None
    return found if run_name(series, found) == name else None


def queue_labels(labels: Mapping[str, str]) -> dict[str, str]:
    """Return the labels that Kueue reads on a Job."""
    return {name: value for name, value in sorted(labels.items()) if name.startswith(f"{KUEUE}/")}
