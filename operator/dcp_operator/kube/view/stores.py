"""The stores of each namespace: which Checkpoints validate them, and which one is the default; an index."""

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field

from dcp_operator.api.json_types import ReadBody
from dcp_operator.controllers.store.validation import VALIDATES, StoreObserved, Validation
from dcp_operator.kube.client.api import STORES, ObjectKey
from dcp_operator.kube.client.ownership import Owner, controlled, controller


@dataclass
class Stores:
    """It is told of every Checkpoint and of every store. A Validate belongs to the store that is its controller.

    Args:
        wake: Called with each store of which something changed beside its object.
    """

    wake: Callable[[ObjectKey], None] = field(default=lambda _: None)
    _owners: dict[ObjectKey, Owner] = field(default_factory=dict, init=False)
    _validations: dict[tuple[str, str], dict[ObjectKey, Validation]] = field(default_factory=dict, init=False)
    """By namespace and uid of the store: in another namespace anybody may name that uid."""
    _defaults: dict[str, dict[ObjectKey, str]] = field(default_factory=lambda: defaultdict(dict), init=False)
    """By namespace, the stores that ask to be the default one, with the time of their creation."""

    def note(self, key: ObjectKey, body: ReadBody) -> None:
        """Take in what a body says."""
        if key.kind == STORES.kind:
            asks = (body.get("spec") or {}).get("default") is True and not body["metadata"].get("deletionTimestamp")
            self._ask(key, str(body["metadata"].get("creationTimestamp", "")) if asks else None)
            return
        reference = controller(body)
        owner = Owner(STORES, str(reference.get("name", "")), str(reference.get("uid", "")))
        if not controlled(body, owner) or (body.get("spec") or {}).get("operation") != VALIDATES.value:
            return
        found, known = Validation.of(body), self._validations.setdefault((key.namespace, owner.uid), {})
        self._owners[key] = owner
        if known.get(key) != found:
            known[key] = found
            self.wake(STORES.key(key.namespace, owner.name))

    def drop(self, key: ObjectKey) -> None:
        """Forget an object that is gone."""
        if key.kind == STORES.kind:
            self._ask(key, None)
            return
        owner = self._owners.pop(key, None)
        if owner is None:
            return
        known = self._validations[key.namespace, owner.uid]
        del known[key]
        if not known:
            del self._validations[key.namespace, owner.uid]
        self.wake(STORES.key(key.namespace, owner.name))

    def of(self, namespace: str, uid: str) -> StoreObserved:
        """Return what is known of a store beside its object."""
        found = self._validations.get((namespace, uid), {}).values()
        order = sorted(found, key=lambda each: (each.ended is None, each.ended.timestamp() if each.ended else 0.0))
        default = self.default(namespace)
        return StoreObserved(validations=tuple(order), default=default.name if default is not None else "")

    def uid_of(self, key: ObjectKey, uid: str) -> str:
        """Return the uid of a Checkpoint that validates the store of that uid; empty if it is none."""
        found = self._validations.get((key.namespace, uid), {}).get(key)
        return found.uid if found is not None else ""

    def default(self, namespace: str) -> ObjectKey | None:
        """Return the default store of a namespace: the oldest one that asks to be, then the first by name.

        One whose spec is wrong is still the default one: those who mean it wait, and save nowhere else.
        """
        asking = self._defaults.get(namespace, {})
        return min(asking, key=lambda key: (asking[key], key.name), default=None)

    def _ask(self, key: ObjectKey, created: str | None) -> None:
        asking, before = self._defaults[key.namespace], self.default(key.namespace)
        if created is None:
            asking.pop(key, None)
        else:
            asking[key] = created
        if self.default(key.namespace) != before:
            for each in asking:
                self.wake(each)
        if not asking:
            del self._defaults[key.namespace]
