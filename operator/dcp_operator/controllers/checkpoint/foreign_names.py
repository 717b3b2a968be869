"""A status names no object of another namespace: who may read the status need not know what is in other namespaces.

The manifest of a checkpoint names the Checkpoint object that saved it. A worker that meets a foreign manifest repeats
that name in its Report: in fields, and in the text of messages and tracebacks.
"""

import re
from dataclasses import replace
from typing import Final

from dcp_contract.checkpoint_info import Conflict, Origin
from dcp_operator.api.checkpoint.spec import Checkpoint
from dcp_operator.api.checkpoint.status import Failure
from dcp_operator.controllers.checkpoint.attempt_outcome import AttemptOutcome

ELSEWHERE: Final = "a Checkpoint of another namespace"
_ORIGIN: Final = re.compile(r"Checkpoint ([\w.-]+)/[\w.-]+ \(uid [^)]*\)?")
"""How `str(Origin)` reads in a text. The text may have been cut."""
_LIMIT: Final = 2048
"""Characters that a text in a status may have."""


def without_foreign_names(ended: AttemptOutcome, checkpoint: Checkpoint) -> AttemptOutcome:
    """Return the outcome without the names of objects of other namespaces."""
    origin = ended.conflict.origin if ended.conflict is not None else None
    foreign = origin if origin is not None and origin.namespace not in {"", checkpoint.namespace} else None

    def shown(text: str) -> str:
        return _without(text, checkpoint.namespace, foreign)

    def of_failure(failure: Failure) -> Failure:
        return failure.model_copy(
            update={"message": shown(failure.message), "traceback": shown(failure.traceback)},
        )

    info = ended.checkpoint
    if info is not None:
        saver = info.origin if info.origin is not None and info.origin.namespace == checkpoint.namespace else None
        info = info.model_copy(update={"origin": saver, "verified": shown(info.verified)})
    conflict = ended.conflict
    if conflict is not None:
        said = conflict.message if conflict.message or foreign is None else _exists(conflict)
        conflict = conflict.model_copy(
            update={"message": shown(said), "origin": None if foreign is not None else conflict.origin}
        )
    return replace(
        ended,
        failure=of_failure(ended.failure) if ended.failure is not None else None,
        failed_ranks=tuple(map(of_failure, ended.failed_ranks)),
        checkpoint=info,
        conflict=conflict,
        warnings=tuple(map(shown, ended.warnings)),
    )


def _exists(conflict: Conflict) -> str:
    when = f" at {conflict.created_time:%Y-%m-%d %H:%M:%SZ}" if conflict.created_time is not None else ""
    return f"Checkpoint already exists at this URL: save {conflict.save_id} by {ELSEWHERE}{when}."


def _without(text: str, namespace: str, foreign: Origin | None) -> str:
    if foreign is not None:
        for name in (str(foreign), f"Checkpoint {foreign.namespace}/{foreign.name}"):
            text = text.replace(name, ELSEWHERE)
        text = text.replace(f"{foreign.namespace}/{foreign.name}", ELSEWHERE)
    return _ORIGIN.sub(lambda found: found[0] if found[1] == namespace else ELSEWHERE, text)[:_LIMIT]
