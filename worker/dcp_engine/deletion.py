"""Removing a committed checkpoint, whole, by its save id. See `commit.removal` for how. Needs no torch."""

from collections.abc import Mapping
from os import PathLike, fspath
from typing import Any

from dcp_contract.checkpoint_info import CheckpointInfo
from dcp_engine import pending
from dcp_engine.commit import removal, snapshot
from dcp_engine.errors import InvalidOption
from dcp_engine.format import layout
from dcp_engine.stores.opening import open_store
from dcp_engine.translate import translate


def delete(
    url: str | PathLike[str],
    save_id: str | None = None,
    *,
    saved_by: str = "",
    storage_options: Mapping[str, Any] | None = None,
) -> CheckpointInfo | None:
    """Remove the committed checkpoint at the URL, its data and those of replaced saves. Not collective: one process.

    Give the save id of what is to go, as `save`, `find` and `list_checkpoints` return it: then whatever was saved
    there since is spared, by the store itself where it can. What no save wrote stays. Loads that have begun raise; they
    return no wrong values. A call that was cut short is repeated, or `clean` does the rest. A background save of this
    process ends first.

    Args:
        url: where the checkpoint stands: an fsspec URL or a path.
        save_id: which save may be removed; None: whichever stands there, one by stock DCP too, which has no save id.
        saved_by: remove only what a Checkpoint object of this uid has saved, by the origin in its manifest. For whoever
            does not know whether that one has committed, and so has no save id.
        storage_options: options of the store that are no secret, by their neutral names
            (`dcp_contract.storage_options.STORAGE_OPTIONS`). Secrets come from the environment.

    Returns:
        What was removed. Its `conflict_guard` says whether the store itself would have refused to remove another save:
        with `BestEffort` one that was committed at the same moment may be removed with it. None if the save that
        `save_id` or `saved_by` names was not there any more.

    Raises:
        CheckpointNotFound: nothing is committed there, and neither `save_id` nor `saved_by` says what once was.
        SaveMismatch: another save stands there; `.holder` says whose. Nothing was removed.
        CheckpointCorrupted: nobody can tell what its damaged `.metadata` needs. Nothing was removed.
        InvalidOption: `save_id` is none. EngineError: the URL can't be opened, or its store refuses.
    """
    if save_id is not None and not layout.is_save_id(save_id):
        raise InvalidOption(f"save_id: {save_id!r} is none; it has 32 hexadecimal digits in lower case")
    try:
        pending.wait_before(url)
        store = open_store(fspath(url), storage_options)
        removed = removal.remove(store, save_id, saved_by)
    except Exception as error:
        raise translate(error) from error
    if removed is None and save_id is None and not saved_by:
        raise snapshot.not_found(store)
    return removed
