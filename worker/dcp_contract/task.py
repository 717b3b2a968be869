"""The Task: everything that one attempt needs to know."""

import json
from typing import Self

from pydantic import (
    Field,
    ValidationError,
)

from dcp_contract import partial_json
from dcp_contract.checkpoint_info import Provenance
from dcp_contract.message import CONTRACT_VERSION, Versioned
from dcp_contract.operations import OperationMembers
from dcp_contract.sections import Parallelism, Storage, Workers, Workload


class Task(OperationMembers, Versioned):
    """Everything that one attempt needs to know; the same in each of its pods. Holds no secret."""

    origin: Provenance
    attempt: int = Field(default=1, ge=1)
    storage: Storage
    workload: Workload | None = None
    parallelism: Parallelism = Parallelism()
    workers: Workers = Workers()
    active_seconds: int = Field(default=3600, ge=1)
    hang_seconds: float = Field(default=300, gt=0)
    """A rank without a heartbeat for this long counts as hung. Below active_seconds, so that it can be named."""
    probe: bool = False
    """Look only whether this origin's save is committed already; start no ranks. Set after a lost Report."""
    ignorable: list[str] = Field(default_factory=list)
    """Dotted JSON names of fields without which a worker that does not know them does what was asked for."""

    @classmethod
    def decode(cls, text: str) -> Self:
        """Return the Task that an operator of another version may have written.

        Raises:
            ValueError: In one line, what of it this worker can't do, and what to do then.
        """
        try:
            fields = json.loads(text)
        except ValueError as error:
            raise ValueError(f"Invalid JSON: {error}") from error
        if not isinstance(fields, dict):
            raise ValueError("the Task is no JSON object")  # noqa: TRY004 - what its text says, not what it is
        version = fields.get("contractVersion", 1)
        if not isinstance(version, int) or abs(version - CONTRACT_VERSION) > 1:
            raise ValueError(
                f"the operator's Task has contract version {version}, and this worker image works with versions "
                f"{CONTRACT_VERSION - 1} to {CONTRACT_VERSION + 1}; use a worker image of the operator's release"
            )
        while True:
            try:
                task = cls.model_validate_json(json.dumps(fields)).of_its_version()
            except ValidationError as error:
                problems = partial_json.without_ignorable(fields, error)
            else:
                if not task.lacking:
                    return task
                problems = [f"{task.lacking}: is missing, and a {task.operation} needs it"]
            if problems:
                raise ValueError(
                    f"{'; '.join(problems)} (the Task has contract version {version}, this worker image "
                    f"{CONTRACT_VERSION}); use a worker image of the operator's release, or drop it from the spec"
                )
