"""An Export: a checkpoint is written to the URL as other programs read it, by one process on a CPU."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import dcp_engine
from dcp_contract.checkpoint_info import CheckpointInfo
from dcp_contract.task import Task
from dcp_engine.errors import CheckpointExists, EngineError, InvalidOption
from dcp_worker.rank_context import RankContext

_FIELDS: Final = {"config_files": "configFiles", "dtype": "dtype", "keys": "keys", "select": "include"}
"""Options of the engine -> the fields of an Export that they come from."""
_OPTION: Final = re.compile(rf"^({'|'.join(_FIELDS)})(?=:)|\b(config_files)\b|(?<=by )(select|dtype)\b")


def preflight(task: Task) -> CheckpointInfo | None:
    """Return this very run's earlier export, if it stands there; raise if the export can't work."""
    storage, fields = task.storage, task.of_export
    with _in_its_own_words(overwrites=fields.overwrites):
        return dcp_engine.preflight_export(
            fields.from_.url,
            storage.url,
            overwrite=fields.overwrites,
            source_options=storage.options,
            storage_options=storage.options,
            origin=task.origin,
        )


def run(rank: RankContext) -> CheckpointInfo:
    """Export the checkpoint; the index, which makes it a model, is written last."""
    task, storage, fields = rank.task, rank.task.storage, rank.task.of_export
    with rank.stage("exporting", transfers=True), _in_its_own_words(overwrites=fields.overwrites):
        info = dcp_engine.export(
            fields.from_.url,
            storage.url,
            dtype=fields.dtype,
            keys={rule.glob: rule.name for rule in fields.keys} or None,
            select=fields.include,
            shard_bytes=fields.shard_bytes,
            config_files=fields.config_files,
            overwrite=fields.overwrites,
            source_options=storage.options,
            storage_options=storage.options,
            origin=task.origin,
            on_progress=rank.on_progress,
        )
        # The index is the truth: a SIGTERM from here on changes nothing.
        rank.ignore_stop()
    return info


@contextmanager
def _in_its_own_words(*, overwrites: bool) -> Iterator[None]:
    """Name the fields of an Export where the engine speaks of its options."""
    try:
        yield
    except EngineError as error:
        told = _OPTION.sub(lambda found: f"export.{_FIELDS[found[0]]}", error.message)
        told = told.replace("Set overwrite to", "Write export.ifExists: Replace to")
        error.message = told.replace("or save to another", "or export to another")
        error.conflict = error.conflict and error.conflict.model_copy(update={"message": error.message})
        if overwrites and isinstance(error, CheckpointExists):
            # A model may be replaced, so it is a config file that may not: no other run would fare better.
            told = error.message.partition(" Write export.ifExists")[0]
            raise InvalidOption(f"export.configFiles: {told}") from error
        raise
