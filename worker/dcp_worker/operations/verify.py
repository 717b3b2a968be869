"""A Verify: every byte at the URL is read and compared with its digest, by one process."""

import dcp_engine
from dcp_contract.checkpoint_info import CheckpointInfo
from dcp_contract.task import Task
from dcp_worker.rank_context import RankContext


def preflight(task: Task) -> None:
    """Raise if nothing is committed at the URL."""
    dcp_engine.preflight_load(task.storage.url, storage_options=task.storage.options)


def run(rank: RankContext) -> CheckpointInfo:
    """Read the checkpoint."""
    storage = rank.task.storage
    with rank.stage("verifying", transfers=True):
        return dcp_engine.verify(storage.url, storage_options=storage.options, on_progress=rank.on_progress)
