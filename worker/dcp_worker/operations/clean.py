"""A Clean: what belongs to no checkpoint, at the URL or below it, is removed by one process."""

from contextlib import suppress

import dcp_engine
from dcp_contract.checkpoint_info import CheckpointInfo
from dcp_contract.sizes import human_bytes
from dcp_contract.task import Task
from dcp_engine.cleanup import cleaned
from dcp_engine.commit.leftovers import Leftover
from dcp_engine.errors import CheckpointCorrupted
from dcp_worker.rank_context import RankContext


def preflight(task: Task) -> None:
    """Raise if the store does not answer, or nobody can tell what the checkpoint at the URL needs."""
    with suppress(*([CheckpointCorrupted] if task.of_clean.recursive else [])):
        dcp_engine.find(task.storage.url, storage_options=task.storage.options)


def run(rank: RankContext) -> CheckpointInfo:
    """Remove what may go, and print it item by item."""
    storage, fields = rank.task.storage, rank.task.of_clean
    did = "would remove" if fields.dry_run else "removed"

    def say(gone: Leftover) -> None:
        size = f", {human_bytes(gone.bytes)}" if gone.bytes else ""
        print(f"{did} {gone.name!r}: {gone.kind}{size}", flush=True)  # noqa: T201 - the pod's log

    with rank.stage("cleaning"):
        done = cleaned(
            storage.url,
            storage_options=storage.options,
            older_than=fields.min_age,
            dry_run=fields.dry_run,
            recursive=fields.recursive,
            on_item=say,
        )
    return CheckpointInfo(url=storage.url, bytes=done.bytes, files=done.files, removed=done.words())
