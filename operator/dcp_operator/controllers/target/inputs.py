"""What every check of a Save with a target is given."""

from dataclasses import dataclass, field
from datetime import datetime, timedelta

from dcp_contract.training import request_id
from dcp_operator.api.checkpoint.spec import Checkpoint
from dcp_operator.api.checkpoint.status import Status, TargetRef
from dcp_operator.controllers.target.observed import ObservedTarget


@dataclass(frozen=True, kw_only=True)
class TargetInputs:
    """Everything that a check may look at."""

    checkpoint: Checkpoint
    observed: ObservedTarget
    status: Status
    """The status to go on from."""
    now: datetime
    stamp: datetime = field(init=False)
    """The time as a status holds it: in whole seconds."""
    request: str = field(init=False)
    """Id of the request."""
    asked: TargetRef | None = field(init=False)
    """The process group that was asked; None while none was."""
    deadline: datetime = field(init=False)
    """By which the Save has to be committed, time in which it waits for the training included."""

    def __post_init__(self) -> None:
        """Work out once what nearly every check asks for."""
        target, stamp = self.status.target, self.now.replace(microsecond=0)
        start = self.status.start_time or stamp
        object.__setattr__(self, "stamp", stamp)
        object.__setattr__(self, "request", request_id(self.checkpoint.origin, self.status.run_generation))
        object.__setattr__(self, "asked", target if target is not None and target.group else None)
        object.__setattr__(self, "deadline", start + timedelta(seconds=self.checkpoint.spec.timeouts.active_seconds))

    @property
    def target(self) -> str:
        """How a person names the target."""
        return str(self.checkpoint.spec.target)
