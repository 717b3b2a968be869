"""A Save: the workload is built, perhaps loaded and stepped, and its state is committed at the URL."""

from typing import Any

import dcp_engine
from dcp_contract.checkpoint_info import CheckpointInfo
from dcp_contract.sections import Source
from dcp_contract.task import Task
from dcp_worker.operations import SAVING
from dcp_worker.rank_context import RankContext


def preflight(task: Task) -> CheckpointInfo | None:
    """Return this very run's earlier commit, if there is one; raise if the save can't work."""
    storage, fields = task.storage, task.of_save
    if fields.from_ is not None:
        preflight_source(fields.from_, storage.options)
    return dcp_engine.preflight_save(
        storage.url, overwrite=fields.overwrites, storage_options=storage.options, origin=task.origin
    )


def preflight_source(source: Source, options: dict[str, Any]) -> None:
    """Raise if nothing stands where a Save is to start from."""
    if source.url is not None:
        dcp_engine.preflight_load(source.url, storage_options=options)
    else:
        dcp_engine.preflight_import(source.place, file=source.torch is not None, storage_options=options)


def run(rank: RankContext) -> CheckpointInfo:
    """Save the workload after its steps."""
    from dcp_worker.operations.built_workload import BuiltWorkload  # noqa: PLC0415 - torch, which a launcher lacks

    task, storage, fields = rank.task, rank.task.storage, rank.task.of_save
    built = BuiltWorkload.build(rank, savable=True)
    before: int | None = 0
    if fields.from_ is not None:
        with rank.stage("loading save.from", transfers=True):
            before = built.start_from(fields.from_, "spec.save.from")
    built.run_steps(fields.steps)
    built.complete_state()
    with rank.stage(SAVING, transfers=True):
        info = dcp_engine.save(
            built.state(),
            storage.url,
            overwrite=fields.overwrites,
            storage_options=storage.options,
            allow=built.allowed,
            unloadable="refuse",
            origin=task.origin,
            step=None if before is None else before + fields.steps,
            patience=task.active_seconds,
            on_progress=rank.on_progress,
        )
        # The commit is the truth: a SIGTERM from here on changes nothing.
        rank.ignore_stop()
    return info
