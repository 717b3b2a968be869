"""What a reconcile of a store does beyond that of any kind: the Checkpoint that validates it is itself served."""

import logging
from dataclasses import dataclass, field, replace

from dcp_operator.api.json_types import Body
from dcp_operator.api.problems import SpecError
from dcp_operator.api.store.spec import CheckpointStore
from dcp_operator.api.store.status import StoreStatus
from dcp_operator.controllers.decision import Decision
from dcp_operator.controllers.store.actions import StoreAction
from dcp_operator.controllers.store.decide import wait_for_creation
from dcp_operator.controllers.store.validation import StoreObserved, Validation
from dcp_operator.kube.client.api import CHECKPOINTS, NameTakenError, ObjectKey, RefusedError
from dcp_operator.kube.client.ownership import Owner
from dcp_operator.kube.kinds.kind import Kind
from dcp_operator.kube.kinds.store import CHECKPOINT_STORE
from dcp_operator.kube.loop.reconcile import Reconciler
from dcp_operator.kube.view.stores import Stores
from dcp_operator.objects.store_validation import validates

logger = logging.getLogger(__name__)


@dataclass
class StoreReconciler(Reconciler[CheckpointStore, StoreObserved, StoreAction]):
    """Brings stores in order.

    Args:
        stores: Which Checkpoints validate which store, and which store is the default one.
    """

    kind: Kind[CheckpointStore, StoreObserved, StoreAction] = CHECKPOINT_STORE
    stores: Stores = field(kw_only=True)

    def observed(self, key: ObjectKey, body: Body) -> StoreObserved:
        """Return the Checkpoints that validate a store, and which one is the default one."""
        found, store = self.stores.of(key.namespace, body["metadata"]["uid"]), self.cache.served.parsed(key, body)
        if isinstance(store, SpecError):
            return found
        known = StoreStatus.read(body.get("status")).validated_generation
        own = tuple(each for each in found.validations if validates(each, store, known))
        others = tuple(each for each in found.validations if each not in own)
        return replace(found, validations=own, others=others)

    async def create(
        self, key: ObjectKey, body: Body, parsed: CheckpointStore | SpecError, decision: Decision[StoreAction]
    ) -> Decision[StoreAction]:
        """Create the Checkpoint that validates; return what is left of the decision."""
        if isinstance(parsed, SpecError):
            return decision
        owner = Owner(self.kind.resource, key.name, body["metadata"]["uid"])
        for action in decision.actions:
            for each in self.kind.build(parsed, action):
                try:
                    created = await self._created(each, owner, parsed)
                except (NameTakenError, RefusedError) as error:
                    logger.warning("%s: it can't be validated yet: %s", key, error)
                    now = self.context.now()
                    return wait_for_creation(parsed, body.get("status") or {}, decision, str(error), now)
                # The watch will bring nothing new of it.
                if (made := self.view.ingest(CHECKPOINTS, created)) is not None:
                    self.context.wake(made)
        return decision

    async def _created(self, body: Body, owner: Owner, store: CheckpointStore) -> Body:
        """Create a Checkpoint, or find it created already: one that does something else has its name taken."""
        created = await self.cluster.create_served(CHECKPOINTS, body, owner)
        if not validates(Validation.of(created), store, store.generation):
            raise NameTakenError(created)
        return created

    async def delete(self, key: ObjectKey, uid: str, name: str) -> None:
        """Delete a Checkpoint that has validated a store. The cluster's garbage collector deletes its Job."""
        validation = CHECKPOINTS.key(key.namespace, name)
        if its := self.stores.uid_of(validation, uid):
            await self.delete_watched(CHECKPOINTS, key.namespace, name, its)
