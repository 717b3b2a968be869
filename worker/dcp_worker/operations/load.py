"""A Load: the workload is built, loaded from the URL, and asked whether it is content."""

import dcp_engine
from dcp_contract.checkpoint_info import CheckpointInfo
from dcp_contract.task import Task
from dcp_worker.rank_context import RankContext


def preflight(task: Task) -> None:
    """Raise if nothing is committed at the URL."""
    dcp_engine.preflight_load(task.storage.url, storage_options=task.storage.options)


def run(rank: RankContext) -> CheckpointInfo:
    """Load what `spec.load` selects into the workload."""
    from dcp_worker.operations.built_workload import BuiltWorkload  # noqa: PLC0415 - torch, which a launcher lacks

    task = rank.task
    built = BuiltWorkload.build(rank, overwritten=task.of_load.whole)
    with rank.stage("loading", transfers=True):
        info = built.load(task.storage.url, task.of_load, "spec.load")
    built.check_loaded()
    return info
