"""What a decision asks for, as data: `cluster` does it with the Kubernetes API, `local` with processes.

Every action may be carried out twice. To create a Job that is there, or to delete one that is gone, is success.
"""

from dataclasses import dataclass

from dcp_contract.task import Task
from dcp_operator.controllers.decision import Decision


@dataclass(frozen=True, kw_only=True)
class CreateAttempt:
    """Create an attempt's Service, its NetworkPolicy and, last, its Job: if the Job is there, the others are."""

    job_name: str
    attempt: int
    task: Task
    suspend: bool = False
    """Create the Job suspended: Kueue starts it."""


@dataclass(frozen=True, kw_only=True)
class DeleteAttempt:
    """Delete an attempt's Service, its NetworkPolicy and, last, its Job with the Job's pods."""

    job_name: str
    attempt: int
    why: str


Action = CreateAttempt | DeleteAttempt
CheckpointDecision = Decision[Action]
"""What to do now for a Checkpoint."""
