"""What the store that an object names comes to: one pure function, by which everything else sees a URL.

A Checkpoint's place is the store's until its first attempt begins. Then its status says what that was, and the place
stays: a store that is edited must neither split one Save over two places, nor have a deletion remove what stands
elsewhere. How one gets to that place follows the store for as long as the store is there: keys are renewed under new
names.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Protocol

from pydantic import ValidationError

from dcp_contract.reasons import Reason
from dcp_operator.api.checkpoint.in_store import KEY, StoreUse, as_written, names_store
from dcp_operator.api.checkpoint.status import StorePlace
from dcp_operator.api.json_types import Body, ReadBody
from dcp_operator.api.problems import SpecError
from dcp_operator.api.store.spec import CheckpointStore
from dcp_operator.api.store_path import joined

_LONGEST_SAID: Final = 512


@dataclass(frozen=True, kw_only=True)
class StoreState:
    """A store as those who name it see it."""

    name: str
    store: CheckpointStore | SpecError
    """As it is parsed, or what is wrong with it."""
    available: bool = True
    said: str = ""
    """What its condition says of why it is not available."""


class StoresByName(Protocol):
    """The stores that there are."""

    def of(self, namespace: str, name: str) -> StoreState | None:
        """Return a store by its name, or the namespace's default one where that is empty; None if there is none."""


def resolved(body: Body, stores: StoresByName) -> Body:
    """Return a body whose `spec.storage` says where it is, of one that may name a store there.

    What was written stands beside it then, under `KEY`. Where the store comes to nothing, that says why. A storage that
    can't be looked up stays as it is: whoever parses the spec says what is wrong with it.
    """
    given = _given(body)
    if given is None:
        return as_written(body) if KEY in body else body
    pinned, path = _pinned(body), str(given["path"])
    name = str((given.get("store") or {}).get("name") or (pinned.name if pinned is not None else ""))
    state = stores.of(str(body["metadata"].get("namespace") or "default"), name)
    now = _place(state, path)
    if pinned is not None and (now is None or not now.is_at(pinned)):
        # The store is gone, or is another place by now: neither its keys nor its condition are of this place.
        use = StoreUse(given=given, name=pinned.name, path=path, settled=True, found=True)
        return _with(body, use, pinned)
    if pinned is not None and now is not None:
        # By the keys of today, and with the options that an attempt may have begun with.
        now = now.model_copy(update={"options": pinned.options})
    use = _use(given, name, path, state)
    return _with(body, use.model_copy(update={"settled": pinned is not None}), now)


def _given(body: ReadBody) -> dict[str, Any] | None:
    """Return the storage that names a store, as it was written."""
    spec = body.get("spec")
    written = spec.get("storage") if isinstance(spec, Mapping) else None
    if isinstance(spec, Mapping) and spec.get("target"):
        # A training has a place of its own.
        return None
    if names_store(written):
        return dict(written or {})
    before = StoreUse.of(body)
    # A body of our own, which was resolved already.
    return before.given if before is not None and "store" not in (written or {}) else None


def _pinned(body: ReadBody) -> StorePlace | None:
    said = (body.get("status") or {}).get("store")
    try:
        return StorePlace.model_validate(said) if said else None
    except ValidationError:
        return None


def _place(state: StoreState | None, path: str) -> StorePlace | None:
    if state is None or isinstance(state.store, SpecError):
        return None
    spec = state.store.spec
    return StorePlace(
        name=state.name,
        url=joined(spec.url, path),
        options=spec.options,
        credentials_secret=spec.credentials_secret_ref.name if spec.credentials_secret_ref is not None else "",
        ca_secret=spec.ca_secret_ref.name if spec.ca_secret_ref is not None else "",
        service_account=spec.service_account_name or "",
    )


def _use(given: dict[str, Any], name: str, path: str, state: StoreState | None) -> StoreUse:
    if state is None:
        what = f"store {name} does not exist." if name else "the namespace has no default store."
        return StoreUse(given=given, name=name, path=path, reason=Reason.STORE_NOT_FOUND, message=what)
    if isinstance(state.store, SpecError):
        what = f"store {state.name} can't be used: {'; '.join(state.store.problems)[:_LONGEST_SAID]}."
        return StoreUse(given=given, name=state.name, path=path, reason=Reason.STORE_NOT_AVAILABLE, message=what)
    use = StoreUse(given=given, name=state.name, path=path, found=True, read_only=not state.store.spec.writable)
    if state.available:
        return use
    why = f": {state.said[:_LONGEST_SAID].rstrip('.')}." if state.said else "."
    what = f"store {state.name} is not Available{why}"
    return use.model_copy(update={"reason": Reason.STORE_NOT_AVAILABLE, "message": what})


def _with(body: Body, use: StoreUse, place: StorePlace | None) -> Body:
    storage = place.to_storage() if place is not None else use.given
    return {**body, "spec": {**body["spec"], "storage": storage}, KEY: use.to_dict()}
