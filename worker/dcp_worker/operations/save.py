"""A Save: the workload is built, perhaps loaded and stepped, and its state is committed at the URL."""

from contextlib import suppress
from typing import Any

import dcp_engine
from dcp_contract.checkpoint_info import CheckpointInfo
from dcp_contract.reasons import Reason
from dcp_contract.sections import Source
from dcp_contract.task import Task
from dcp_engine.errors import CheckpointCorrupted
from dcp_worker.operations import SAVING, Settled
from dcp_worker.operations.adoption import NotAdopted, differences
from dcp_worker.rank_context import RankContext


def preflight(task: Task) -> Settled | None:
    """Return this very run's earlier commit, or what it adopts, if there is one; raise if the save can't work."""
    storage, fields = task.storage, task.of_save
    if fields.adopts and (adopted := _adopted(task)):
        return Settled(Reason.ALREADY_SAVED, adopted)
    if fields.from_ is not None:
        preflight_source(fields.from_, storage.options)
    own = dcp_engine.preflight_save(
        storage.url, overwrite=fields.overwrites, storage_options=storage.options, origin=task.origin
    )
    return Settled(Reason.SAVED, own) if own is not None else None


def _adopted(task: Task) -> CheckpointInfo | None:
    """Return the checkpoint at the URL if this Save takes it over; None where nothing stands, or its own commit.

    Raises:
        NotAdopted: it is none that this Save may take over.
        CheckpointCorrupted: it is, and files of it are missing.
    """
    url, options = task.storage.url, task.storage.options
    found: CheckpointInfo | None = None
    with suppress(CheckpointCorrupted):  # its origin is not known: then it is in the way, as for every Save
        found = dcp_engine.find(url, storage_options=options)
        if found is not None and found.save_id and found.origin is None:
            # That look hides why a manifest can't be read. A store that is away is no stranger: this one raises.
            found = dcp_engine.whole(url, storage_options=options)
    if found is None or task.origin.made(found.origin):
        return None
    if different := [*differences(task, found)]:
        raise NotAdopted(found, different)
    adopted = dcp_engine.whole(url, storage_options=options)
    # Another save may have replaced it between the two looks: that one is judged by itself.
    return adopted if adopted.save_id == found.save_id else _adopted(task)


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
