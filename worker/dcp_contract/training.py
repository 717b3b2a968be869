"""What training and the operator say to each other: one POST and its answer, again and again.

Rank 0 of a training job posts its `AgentState`; the answer is the operator's `AgentOrders`. Each says all that holds,
not what has changed: either side may be killed at any time, and what it knew is in the next message of the other.

- A request is open until its save has ended. The operator lists it in every answer until the agent lists it in `ended`.
- A save that has ended is listed in every `AgentState` until the operator lists it in `acknowledged`: the outcome
  stands in a Checkpoint's status then, or nobody takes it. The operator takes the same outcome twice, and the agent
  saves once for an id.
- A request that the operator lists no longer is withdrawn: the agent forgets it, unless its save has begun.
- The answer is held for `hold_seconds` while it would say nothing new. A new POST of a pod ends the one before.

A refusal is an HTTP status with one line of text. After 429 and 503, which have a Retry-After, the agent comes again
on a new connection.
"""

from enum import StrEnum
from typing import Annotated, Final, Self

from pydantic import AfterValidator, BeforeValidator, Field, ValidationError

from dcp_contract import partial_json
from dcp_contract.checkpoint_info import CheckpointInfo, Origin
from dcp_contract.message import Int, MaybeCount, MaybeInt, Real, Url, Versioned, Wire, first_problem
from dcp_contract.operations import IfExists
from dcp_contract.reasons import _REASONS, Reason
from dcp_contract.report import RankFailure, cut

TRAINING_PATH: Final = "/v1/training"
"""Where an AgentState is posted to, with the pod's token as `Authorization: Bearer`."""
TRAINING_PORT: Final = 8443
AUDIENCE: Final = "dcp-operator"
"""Of the pod's projected service-account token."""
CHANNEL_CONFIG_MAP: Final = "dcp-operator-ca"
"""Holds `ca.crt` (the certificates of the operator's replicas, in PEM) and `url`; in each namespace with a target."""
CHANNEL_FOLDER: Final = "/var/run/secrets/dcp-operator"
"""Where a pod mounts the ConfigMap (`ca.crt`, `url`) and its token (`token`); CHANNEL_FOLDER_ENV names another."""
CHANNEL_FOLDER_ENV: Final = "DCP_CHANNEL"
HOLD_SECONDS: Final = 25.0
"""Seconds that an answer is held at most."""
MESSAGE_LIMIT: Final = 64 * 1024
"""Bytes that a message may have, either way."""
MAX_REQUESTS: Final = 8
"""Requests of one message. The operator keeps back what is more, the newest ones."""
MAX_ENDED: Final = 8
"""Ended saves of one message. The agent keeps back what is more, the newest ones."""
MAX_PREFIXES: Final = 8
_WORDS: Final = 1000
_TRACEBACK: Final = 2000
_INFO_WORDS: Final = 1024
_OBJECT_NAME: Final = 253


class SaveStage(StrEnum):
    """How far a request is."""

    WAITING = "Waiting"
    """For the step that the ranks agree on, or for a save that is on its way."""
    SAVING = "Saving"


def _bounded_failure(failure: RankFailure) -> RankFailure:
    update = {"message": cut(failure.message, _WORDS), "stage": cut(failure.stage, 80)}
    return failure.model_copy(update=update | {"traceback": failure.traceback[-_TRACEBACK:]})


def _bounded(info: CheckpointInfo) -> CheckpointInfo:
    texts = [*info.__dict__.values(), *(info.origin.__dict__.values() if info.origin else ())]
    if any(len(text) > _INFO_WORDS for text in texts if isinstance(text, str)):
        raise ValueError(f"has a text of more than {_INFO_WORDS} characters")
    return info


def _known_reason(failure: object) -> object:
    return partial_json.with_known_reason(failure, _REASONS, Reason.RANK_FAILED)


Id = Annotated[str, Field(min_length=1, max_length=128)]
MaybeUrl = Annotated[str, Field(max_length=1024)]
Failure = Annotated[RankFailure, BeforeValidator(_known_reason), AfterValidator(_bounded_failure)]
"""A failure with texts as long as a status takes them. A reason that only a newer version knows goes to the message."""
Info = Annotated[CheckpointInfo, AfterValidator(_bounded)]


class SaveRequest(Wire):
    """A save that the operator asks for. It goes to `url`, or where the agent would save that step by itself."""

    id: Id
    """Of one run of one Checkpoint: `request_id`."""
    url: Url | None = None
    """None for `<prefix>/step-<n>`. One that is under none of the agent's prefixes ends as TargetRefused."""
    if_exists: IfExists = IfExists.FAIL
    """Replace takes only what the same training has saved; anything else at the URL ends as OverwriteConflict."""
    origin: Origin
    """What the manifest says of who saved: an operator finds by it that the save had committed."""


def request_id(origin: Origin, run_generation: int = 0) -> str:
    """Return the id of the request that a run of a Checkpoint makes; the same in every operator.

    Args:
        origin: The run.
        run_generation: At which the run began: a runId may come again.
    """
    return f"{origin.uid}/{origin.run_id}" + (f"/{run_generation}" if run_generation else "")


class TakenRequest(Wire):
    """A request that the agent has taken and not ended."""

    id: Id
    stage: Annotated[SaveStage, BeforeValidator(lambda word: word if word in {*SaveStage} else SaveStage.WAITING)]
    step: MaybeCount = None
    """The step that the ranks agreed on."""
    url: MaybeUrl = ""
    bytes: Int = 0
    """Of rank 0, as everywhere in a progress."""
    total_bytes: Int = 0


class EndedSave(Wire):
    """A save that has ended: committed, if it has a `checkpoint`, else failed."""

    id: Id
    """Of the request; of a save that training made by itself, a random one."""
    requested: bool = True
    """False for a save that training made by itself."""
    step: MaybeCount = None
    url: MaybeUrl = ""
    seconds: Real = 0.0
    """From the agreed step to the commit."""
    blocked_seconds: Real = 0.0
    """How long the training loop stood still for it, on rank 0. A save returns to all ranks at the same time."""
    checkpoint: Info | None = None
    """Its origin is another request's where requests shared one save."""
    failure: Failure | None = None


class Resumed(Wire):
    """The checkpoint that training went on from."""

    url: MaybeUrl = ""
    step: MaybeCount = None
    origin: Origin | None = None
    """Of the save that made it: a request that was lost with the job before had committed after all."""


class ChannelMessage(Versioned):
    """What AgentState and AgentOrders are: each side reads those of any version of the other."""

    @classmethod
    def decode(cls, text: bytes) -> Self:
        """Return a message of any version: what only a newer one says is left out.

        Raises:
            ValueError: In one line, what of it can't be read.
        """
        if len(text) > MESSAGE_LIMIT:
            raise ValueError(f"the message has {len(text)} bytes; the most is {MESSAGE_LIMIT}")
        try:
            return cls.model_validate_json(text, extra="ignore").of_its_version()
        except ValidationError as error:
            raise ValueError(first_problem(error)) from error


class AgentState(ChannelMessage):
    """All that holds on the side of training. Posted by rank 0."""

    group: Id
    """A random id that rank 0 makes at its start: one process group. The ranks of another start have another one."""
    world: Int = 1
    """Ranks."""
    prefix: Url
    """URL under which training saves."""
    also: list[Url] = Field(default_factory=list, max_length=MAX_PREFIXES)
    """Further prefixes that a request may name."""
    step: Int = 0
    """The last step that rank 0 has finished."""
    requests: list[TakenRequest] = Field(default_factory=list, max_length=MAX_REQUESTS)
    ended: list[EndedSave] = Field(default_factory=list, max_length=MAX_ENDED)
    """Every ended save that is not acknowledged yet, the oldest one first."""
    resumed_from: Resumed | None = None
    keeps: bool = False
    """Rank 0 removes old checkpoints by rules of its own, unless the operator names a series that does."""
    ends: bool = False
    """Training is over or is stopping: it takes no more requests."""
    hold_seconds: Real = HOLD_SECONDS
    """How long the answer may be held while it says nothing new; less while a save runs, for its progress."""

    def encode(self) -> bytes:
        """Return JSON of at most MESSAGE_LIMIT bytes: ended saves that have no room come with a later message."""
        state = self.model_copy(update={"ended": self.ended[:MAX_ENDED]})
        while len(text := state.to_json().encode()) > MESSAGE_LIMIT and state.ended:
            state = state.model_copy(update={"ended": state.ended[:-1]})
        return text


class AgentOrders(ChannelMessage):
    """All that holds on the side of the operator: the answer to an AgentState."""

    requests: list[SaveRequest] = Field(default_factory=list, max_length=MAX_REQUESTS)
    """All open requests for the agent's group, the oldest one first."""
    acknowledged: list[Id] = Field(default_factory=list, max_length=MAX_ENDED)
    """Ids of ended saves that the agent need not list any more."""
    grace_seconds: MaybeInt = None
    """The pod's terminationGracePeriodSeconds: a stop has so long to save."""
    retention: Annotated[str, Field(max_length=_OBJECT_NAME)] = ""
    """The series whose retention removes under the agent's prefix: the agent removes nothing then, until an answer
    names none. An older operator names none."""
    wait_seconds: Real = 0.0
    """How long the agent waits before it posts again."""

    def encode(self) -> bytes:
        """Return JSON of at most MESSAGE_LIMIT bytes."""
        orders = self
        while len(text := orders.to_json().encode()) > MESSAGE_LIMIT and orders.requests:
            orders = orders.model_copy(update={"requests": orders.requests[:-1]})
        return text
