"""How a new checkpoint takes the place of what stands at its URL: before, at and after its commit. No torch here."""

from datetime import timedelta

from dcp_engine import failpoints
from dcp_engine.commit import protocol, snapshot, stock
from dcp_engine.commit import replaced as grace
from dcp_engine.errors import CheckpointCorrupted, CheckpointNotFound
from dcp_engine.stores.protocol import Store, weaker


def examine(store: Store, *, overwrite: bool) -> str:
    """Refuse a save that the URL does not take, before a byte moves; return how the commit is guarded.

    Raises:
        CheckpointExists: something is committed, and `overwrite` is false.
    """
    if not overwrite:
        protocol.refuse_if_committed(store)
        return store.guard("create")
    protocol.committed(store)  # what can't be replaced is refused before a byte moves
    # Which of the two it will be the commit finds out.
    return weaker(store.guard("replace"), store.guard("create"))


class _StandsAlready(Exception):
    """Another copy of this very save was first: to replace it would remove its data."""


class Replacement:
    """Commits one save, and keeps or removes what it replaces."""

    def __init__(self, store: Store, save_id: str, *, overwrite: bool, keep: timedelta | None) -> None:
        self._store = store
        self._save_id = save_id
        self._overwrite = overwrite
        self._keep = store.keep_replaced if keep is None else keep
        self._replaced = ""
        """After the commit: which of our own saves was replaced."""

    def commit(self, metadata: bytes) -> None:
        """Make the save the one at the URL; a tombstone of what it replaces comes before that."""
        failpoints.reach("before commit")
        stock_files = self._stock_files() if self._overwrite else []

        def mark(replaced: protocol.Committed) -> None:
            if replaced.save_id == self._save_id:
                raise _StandsAlready
            files = [] if replaced.save_id else stock_files
            # Without a tombstone nobody could tell the files of a stock checkpoint from somebody else's.
            if (self._keep > timedelta(0) or files) and not replaced.damage:
                grace.mark(self._store, replaced.save_id, by=self._save_id, keep=self._keep, files=files)

        try:
            replaced = protocol.commit(self._store, self._save_id, metadata, overwrite=self._overwrite, before=mark)
        except _StandsAlready:
            return
        failpoints.reach("after commit")
        self._replaced = replaced.save_id if replaced else ""

    def remove_replaced(self) -> None:
        """Remove what was replaced and need not be kept."""
        if self._overwrite:
            protocol.remove_replaced(self._store, "" if self._keep > timedelta(0) else self._replaced)

    def _stock_files(self) -> list[str]:
        """Return the data files of a stock checkpoint that is about to be replaced."""
        try:
            found = protocol.committed(self._store)
            if found is None or found.trailer:
                return []
            return stock.data_files(snapshot.read(self._store).manifest(self._store.url))
        except (CheckpointNotFound, CheckpointCorrupted, FileNotFoundError):
            return []
