"""A Copy: another checkpoint is copied to the URL and committed there, by one process."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress

import dcp_engine
from dcp_contract.checkpoint_info import CheckpointInfo
from dcp_contract.task import Task
from dcp_engine.errors import CheckpointCorrupted, CheckpointExists
from dcp_worker.rank_context import RankContext


def preflight(task: Task) -> None:
    """Raise if nothing is committed at the source, or something else at the URL."""
    storage, fields = task.storage, task.of_copy
    source = dcp_engine.preflight_load(fields.from_.url, storage_options=storage.options)
    with suppress(CheckpointCorrupted):  # which may be replaced
        there = dcp_engine.find(storage.url, storage_options=storage.options)
        if source and there and there.save_id and there.save_id == source.save_id:
            return  # an attempt whose Report got lost has committed it, or it came there otherwise
    with _in_its_own_words():
        dcp_engine.preflight_save(storage.url, overwrite=fields.overwrites, storage_options=storage.options)


def run(rank: RankContext) -> CheckpointInfo:
    """Copy the checkpoint; what an earlier attempt has left whole is not moved again."""
    storage, fields = rank.task.storage, rank.task.of_copy
    with rank.stage("copying", transfers=True), _in_its_own_words():
        info = dcp_engine.copy(
            fields.from_.url,
            storage.url,
            overwrite=fields.overwrites,
            verify=fields.verify,
            source_options=storage.options,
            storage_options=storage.options,
            bandwidth=fields.bytes_per_second,
            on_progress=rank.on_progress,
        )
        # The commit is the truth: a SIGTERM from here on changes nothing.
        rank.ignore_stop()
    return info


@contextmanager
def _in_its_own_words() -> Iterator[None]:
    """Name the field of a Copy where the engine speaks of its option, which else is a Save's."""
    try:
        yield
    except CheckpointExists as error:
        error.message = error.message.replace("Set overwrite to", "Write copy.ifExists: Replace to").replace(
            "or save to another", "or copy to another"
        )
        error.conflict = error.conflict and error.conflict.model_copy(update={"message": error.message})
        raise
