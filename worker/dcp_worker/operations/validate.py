"""A Validate: what the store at the URL does is tried out, by the launcher alone: no rank starts."""

import dcp_engine
from dcp_contract.checkpoint_info import CheckpointInfo
from dcp_contract.task import Task
from dcp_worker.rank_context import RankContext


def preflight(task: Task) -> CheckpointInfo:
    """Try the store out; raise if it can't hold checkpoints."""
    url, options = task.storage.url, task.storage.options
    facts = dcp_engine.probe(url, storage_options=options, read_only=task.of_validate.read_only)
    return CheckpointInfo(url=url, store=facts)


def run(rank: RankContext) -> CheckpointInfo:
    """Try the store out; the launcher has settled that before any rank starts."""
    return preflight(rank.task)
