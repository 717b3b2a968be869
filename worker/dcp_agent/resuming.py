"""Which checkpoint a run goes on from: the newest that is whole under its prefix, the same on every rank."""

import json
from collections.abc import Mapping
from typing import Any

import dcp_engine
from dcp_agent.shared_store import SharedStore
from dcp_contract.checkpoint_info import CheckpointInfo
from dcp_engine.errors import EngineError


def newest(
    prefix: str, options: Mapping[str, Any] | None, rank: int, store: SharedStore, time: int
) -> CheckpointInfo | None:
    """Return the newest whole checkpoint under a prefix, or None. Every rank calls it, and gets rank 0's answer.

    Rank 0 alone lists and reads: two listings at two moments may differ.

    Args:
        prefix: Where the run's checkpoints stand, as `step-<n>`.
        options: Options of the store that are no secret.
        rank: This rank.
        store: The keys of this agent.
        time: How many times the agent has been asked before.

    Raises:
        EngineError: rank 0 could not list the prefix; the same on every rank.
    """
    key = f"resume/{time}"
    if rank == 0:
        try:
            found = dcp_engine.latest(prefix, storage_options=options)
        except EngineError as error:
            store.write_first(key, json.dumps({"error": str(error)}))
            raise
        store.write_first(key, json.dumps({"found": found and found.to_json()}))
    store.wait((key,), None)
    answer = json.loads(store.read(key) or "{}")
    if "error" in answer:
        raise EngineError(answer["error"], rank=0)
    return CheckpointInfo.model_validate_json(answer["found"]) if answer["found"] else None
