"""A Delete: the checkpoint at the URL is removed with its data, by one process."""

import logging
from typing import Final

import dcp_engine
from dcp_contract.checkpoint_info import CheckpointInfo
from dcp_contract.task import Task
from dcp_engine.errors import CheckpointNotFound
from dcp_worker.rank_context import RankContext

LOG: Final = logging.getLogger("dcp_worker")


def preflight(task: Task) -> None:
    """Raise if nothing is committed at the URL and nothing says that there was."""
    look = dcp_engine.find if _may_be_gone(task) else dcp_engine.preflight_load
    look(task.storage.url, storage_options=task.storage.options)


def run(rank: RankContext) -> CheckpointInfo:
    """Remove the checkpoint; one that is gone already is what was asked for."""
    task = rank.task
    url, save_id, saved_by = task.storage.url, task.of_delete.save_id, task.of_delete.saved_by or ""
    removed: CheckpointInfo | None = None
    with rank.stage("removing"):
        try:
            removed = dcp_engine.delete(url, save_id, saved_by=saved_by, storage_options=task.storage.options)
        except CheckpointNotFound:
            if not _may_be_gone(task):
                raise
    if removed is None:
        LOG.warning("%s: nothing was committed there any more", url)
    return removed or CheckpointInfo(url=url, save_id=save_id or "")


def _may_be_gone(task: Task) -> bool:
    """Tell whether the checkpoint was there once: an earlier attempt, whose Report got lost, may have removed it."""
    fields = task.of_delete
    return fields.save_id is not None or fields.saved_by is not None or task.attempt > 1
