"""A storage that names a CheckpointStore and a path below it, in place of a URL: how it is written, what came of it.

What it comes to is put into the object where the object is taken in (`api.store.resolving`). From there on the object
has a URL, options and Secrets as any other.
"""

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Final, Self

from pydantic import Field, ValidationError

from dcp_contract.message import Wire
from dcp_contract.reasons import Reason
from dcp_operator.api.store_path import LONGEST, PATH_PROBLEM, is_path

KEY: Final = "inStore"
"""Where a body that was taken in says what its store came to. No API server stores it."""
StoreName = Annotated[str, Field(min_length=1, max_length=63, pattern=r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$")]
OF_STORE: Final = ("url", "options", "credentialsSecretRef", "caSecretRef", "serviceAccountName")
"""What a store says for whoever names it."""
_INSTEAD: Final = "latestOf"
MISSING: Final = "is missing; write where below the store, such as run/step-1000"
STANDS_IN_STORE: Final = "stands in the store; drop it, or drop store and path"


class StoreRef(Wire):
    """A CheckpointStore in the object's own namespace."""

    name: StoreName | None = Field(
        default=None, description="Name of the CheckpointStore. Default: the namespace's default one."
    )


class InStore(Wire):
    """A place by the name of a store."""

    store: StoreRef | None = Field(
        default=None,
        description="The CheckpointStore below which path lies, in place of url, options and Secrets. With path and "
        "without it: the namespace's default store.",
    )
    path: str = Field(
        default="",
        max_length=LONGEST,
        description="Where below the url of the store, such as run/step-1000.",
    )

    @property
    def is_in_store(self) -> bool:
        """Whether it names a store, by name or as the default one."""
        return self.store is not None or bool(self.path)


class StoreUse(Wire):
    """What the store came to that an object names."""

    given: dict[str, Any]
    """The storage as it was written."""
    name: str = ""
    """Of the store; empty where the namespace has no default one."""
    path: str = ""
    settled: bool = False
    """The place was written down when the first attempt began: it stays, whatever becomes of the store."""
    found: bool = False
    """Whether the object has a URL."""
    read_only: bool = False
    reason: Reason | None = None
    """Why nothing can be begun with it now."""
    message: str = ""
    """The same in words."""

    @classmethod
    def of(cls, body: Mapping[str, Any]) -> Self | None:
        """Return what a body that was taken in says; None where it names no store."""
        said = body.get(KEY)
        try:
            return cls.model_validate(said) if said else None
        except ValidationError:
            # A file may say anything there.
            return None


def as_written(body: Mapping[str, Any]) -> dict[str, Any]:
    """Return a body without what its store came to: with the fields that an object has."""
    return {name: value for name, value in body.items() if name != KEY}


def in_store_problems(field: str, storage: InStore) -> Iterator[str]:
    """Yield what is wrong with a storage that names a store."""
    if not storage.is_in_store:
        return
    said = {str(each.alias) for name, each in type(storage).model_fields.items() if name in storage.model_fields_set}
    for name in (*OF_STORE, _INSTEAD):
        if name in said:
            yield f"{field}.{name}: {STANDS_IN_STORE}"
    if not storage.path:
        yield f"{field}.path: {MISSING}"
    elif not is_path(storage.path):
        yield f"{field}.path: {PATH_PROBLEM}"


def names_store(storage: object) -> bool:
    """Return whether a storage as JSON names a store and nothing else: then it can be looked up."""
    if not isinstance(storage, Mapping) or any(storage.get(each) for each in (*OF_STORE, _INSTEAD)):
        return False
    reference, path = storage.get("store"), storage.get("path")
    return isinstance(path, str) and is_path(path) and (reference is None or isinstance(reference, Mapping))
