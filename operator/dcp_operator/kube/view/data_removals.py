"""Which Delete removes the data of which deleted Checkpoint: an index beside the cache."""

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from dcp_operator.api.json_types import ReadBody
from dcp_operator.api.naming import data_removal_name
from dcp_operator.controllers.deletion.removal import DataRemoval
from dcp_operator.kube.client.api import CHECKPOINTS, ObjectKey
from dcp_operator.kube.client.ownership import Owner, controlled, controller

AT_ONCE: Final = 20
"""Deletes that are under way in one bucket for one namespace: each is a Job, and hundreds may be deleted at once."""


@dataclass
class DataRemovals:
    """It is told of every Checkpoint. A Delete belongs to the Checkpoint of its namespace that controls it, by uid.

    Args:
        wake: Called with each deleted Checkpoint whose removal has changed.
    """

    wake: Callable[[ObjectKey], None] = field(default=lambda _: None)
    _owners: dict[ObjectKey, Owner] = field(default_factory=dict)
    _by_owner: dict[tuple[str, str], DataRemoval] = field(default_factory=dict)
    """By namespace and uid of the deleted Checkpoint: in another namespace anybody may name that uid."""
    _going: dict[tuple[str, str], set[str]] = field(default_factory=lambda: defaultdict(set))
    """By namespace and bucket, the uids of the deleted Checkpoints whose Deletes have not ended."""

    def note(self, key: ObjectKey, body: ReadBody) -> None:
        """Take in what a body says."""
        reference = controller(body)
        owner = Owner(CHECKPOINTS, str(reference.get("name", "")), str(reference.get("uid", "")))
        if not controlled(body, owner) or key.name != data_removal_name(owner.name, owner.uid):
            return
        self._owners[key] = owner
        removal = self._by_owner[key.namespace, owner.uid] = DataRemoval.of(body)
        if removal.ended is not None:
            self.end(key.namespace, owner.uid)
        else:
            self._going[key.namespace, _bucket(_url(body))].add(owner.uid)
        self.wake(CHECKPOINTS.key(key.namespace, owner.name))

    def drop(self, key: ObjectKey) -> None:
        """Forget a Checkpoint that is gone."""
        owner = self._owners.pop(key, None)
        if owner is None:
            return
        del self._by_owner[key.namespace, owner.uid]
        self.end(key.namespace, owner.uid)
        self.wake(CHECKPOINTS.key(key.namespace, owner.name))

    def of(self, key: ObjectKey, uid: str) -> DataRemoval | None:
        """Return the Delete of what the Checkpoint of that key and uid has saved; None where there is none."""
        return self._by_owner.get((key.namespace, uid))

    def begin(self, namespace: str, url: str, uid: str) -> bool:
        """Take a place for the Delete of what a Checkpoint has saved; return False where all are taken."""
        going = self._going[namespace, _bucket(url)]
        if uid not in going and len(going) >= AT_ONCE:
            return False
        going.add(uid)
        return True

    def end(self, namespace: str, uid: str) -> None:
        """Give the place back: the Delete has ended, or there is none."""
        for at in [at for at, going in self._going.items() if at[0] == namespace and uid in going]:
            self._going[at].discard(uid)
            if not self._going[at]:
                del self._going[at]


def _url(body: ReadBody) -> str:
    return str(((body.get("spec") or {}).get("storage") or {}).get("url", ""))


def _bucket(url: str) -> str:
    """Return what removals of one store share: the protocol and the bucket, and of file systems the protocol."""
    return "/".join(url.split("/")[:3])
