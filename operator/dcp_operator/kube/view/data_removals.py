"""Which Delete removes the data of which deleted Checkpoint: an index beside the cache."""

from collections.abc import Callable
from dataclasses import dataclass, field

from dcp_operator.api.json_types import ReadBody
from dcp_operator.api.naming import data_removal_name
from dcp_operator.controllers.deletion.removal import DataRemoval
from dcp_operator.kube.client.api import CHECKPOINTS, ObjectKey
from dcp_operator.kube.client.ownership import Owner, controlled, controller


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

    def note(self, key: ObjectKey, body: ReadBody) -> None:
        """Take in what a body says."""
        reference = controller(body)
        owner = Owner(CHECKPOINTS, str(reference.get("name", "")), str(reference.get("uid", "")))
        if not controlled(body, owner) or key.name != data_removal_name(owner.name, owner.uid):
            return
        self._owners[key] = owner
        self._by_owner[key.namespace, owner.uid] = DataRemoval.of(body)
        self.wake(CHECKPOINTS.key(key.namespace, owner.name))

    def drop(self, key: ObjectKey) -> None:
        """Forget a Checkpoint that is gone."""
        owner = self._owners.pop(key, None)
        if owner is None:
            return
        del self._by_owner[key.namespace, owner.uid]
        self.wake(CHECKPOINTS.key(key.namespace, owner.name))

    def of(self, key: ObjectKey, uid: str) -> DataRemoval | None:
        """Return the Delete of what the Checkpoint of that key and uid has saved; None where there is none."""
        return self._by_owner.get((key.namespace, uid))
