"""The CheckpointStore as a Kind. What it owns is itself served: `view.stores` keeps it, not the cache."""

from typing import Final

from dcp_operator.api.json_types import Body, ReadBody
from dcp_operator.api.site import Site
from dcp_operator.api.store.parsing import parse
from dcp_operator.api.store.spec import CheckpointStore
from dcp_operator.controllers.store.actions import DropValidation, StartValidation, StoreAction
from dcp_operator.controllers.store.decide import decide, refuse
from dcp_operator.controllers.store.validation import StoreObserved
from dcp_operator.kube.client.api import STORES
from dcp_operator.kube.kinds.kind import Deletion, Kind
from dcp_operator.objects.store_validation import checkpoint_of_validation


def _parse(body: ReadBody, site: Site, begun: bool) -> CheckpointStore:  # noqa: FBT001 - as Kind has it
    del begun
    return parse({"metadata": body["metadata"], "spec": body.get("spec")}, site=site, measured=True)


def _build(store: CheckpointStore, action: StoreAction) -> tuple[Body, ...]:
    return (checkpoint_of_validation(store, action),) if isinstance(action, StartValidation) else ()


def _deletes(action: StoreAction) -> Deletion | None:
    return Deletion(action.name, action.why) if isinstance(action, DropValidation) else None


CHECKPOINT_STORE: Final[Kind[CheckpointStore, StoreObserved, StoreAction]] = Kind(
    resource=STORES,
    parse=_parse,
    is_finished=lambda _: False,
    observe=lambda _: StoreObserved(),
    decide=decide,
    refuse=refuse,
    build=_build,
    deletes=_deletes,
)
