"""The names that objects carry in a cluster: API group, labels, and what an attempt's Job is called."""

import hashlib
from collections.abc import Mapping
from typing import Final

GROUP: Final = "dcp-operator.io"
VERSION: Final = "v1alpha1"
KIND: Final = "Checkpoint"
PLURAL: Final = "checkpoints"
API_VERSION: Final = f"{GROUP}/{VERSION}"

MANAGED_BY_LABEL: Final = "app.kubernetes.io/managed-by"
MANAGED_BY: Final = "dcp-operator"
CHECKPOINT_LABEL: Final = f"{GROUP}/checkpoint"
"""The Checkpoint's name, for people: `kubectl get pods -l dcp-operator.io/checkpoint=NAME`."""
UID_LABEL: Final = f"{GROUP}/owner-uid"
"""The uid of the object that an object belongs to, of whatever kind: what the operator finds Jobs and Pods by."""
RUN_LABEL: Final = f"{GROUP}/run-id"
ATTEMPT_LABEL: Final = f"{GROUP}/attempt"
PROBE_LABEL: Final = f"{GROUP}/probe"
JOB_LABEL: Final = f"{GROUP}/job"
"""The attempt's Job name: what its Service and its NetworkPolicy select pods by."""
SPEC_ANNOTATION: Final = f"{GROUP}/spec-digest"
"""Of which args, options and podTemplate an attempt's Job was made."""
GENERATION_ANNOTATION: Final = f"{GROUP}/generation"
"""Of the Checkpoint, when an attempt's Job was made: it tells a run from an earlier one of the same runId."""

KUEUE: Final = "kueue.x-k8s.io"
QUEUE_LABEL: Final = f"{KUEUE}/queue-name"
INDEX_LABEL: Final = "batch.kubernetes.io/job-completion-index"
WORKER_CONTAINER: Final = "worker"

NAME_LIMIT: Final = 63
"""Longest name of a Checkpoint: it becomes a label's value."""
_READABLE: Final = 40
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


def queue_labels(labels: Mapping[str, str]) -> dict[str, str]:
    """Return the labels that Kueue reads on a Job."""
    return {name: value for name, value in sorted(labels.items()) if name.startswith(f"{KUEUE}/")}
