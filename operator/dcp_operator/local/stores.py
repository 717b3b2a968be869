"""The CheckpointStores of manifest files: what the Checkpoints beside them name is looked up in them."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from dcp_operator.api.checkpoint.in_store import StoreUse, as_written
from dcp_operator.api.problems import SpecError
from dcp_operator.api.site import Site
from dcp_operator.api.store.parsing import parse
from dcp_operator.api.store.resolving import StoreState, resolved
from dcp_operator.api.store.spec import CheckpointStore, default_of


@dataclass
class ManifestStores:
    """The stores of files. None of them was validated: a run says soon enough what is wrong with one."""

    _states: dict[tuple[str, str], StoreState] = field(default_factory=dict)

    def add(self, body: Mapping[str, Any], site: Site) -> None:
        """Take in a store; one that can't be read is known by its name.

        Raises:
            SpecError: with what is wrong with it.
        """
        metadata = body.get("metadata")
        name = metadata.get("name") if isinstance(metadata, Mapping) else None
        namespace = str(metadata.get("namespace") or "default") if isinstance(metadata, Mapping) else ""
        try:
            store: CheckpointStore | SpecError = parse(body, site=site)
        except SpecError as error:
            store = error
        if isinstance(name, str):
            self._states[namespace, name] = StoreState(name=name, store=store)
        if isinstance(store, SpecError):
            raise store

    def of(self, namespace: str, name: str) -> StoreState | None:
        """Return a store by its name, or the namespace's default one where that is empty; None if there is none."""
        if not name:
            here = [each.store for (place, _), each in self._states.items() if place == namespace]
            chosen = default_of(each for each in here if isinstance(each, CheckpointStore))
            name = chosen.name if chosen is not None else ""
        return self._states.get((namespace, name))

    def resolved(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """Return a Checkpoint or a series with the URL of its storage, if it names a store there."""
        # A file may say anything; what a store came to is not a file's to say.
        plain = {name: value for name, value in as_written(body).items() if name != "status"}
        metadata = plain.get("metadata")
        return resolved(plain, self) if isinstance(metadata, Mapping) else plain


def unresolved(store: StoreUse | None) -> str:
    """Return what is said of a store that none of the files holds; empty where it is there."""
    if store is None or store.found:
        return ""
    which = f"store {store.name} is" if store.name else "a default store is"
    return f"spec.storage.store: {which} in none of the files; add the CheckpointStore to them, or write url"
