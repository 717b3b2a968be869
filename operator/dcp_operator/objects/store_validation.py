"""The Checkpoint that validates a store. The same in, the same out."""

from typing import Final

from dcp_operator.api.json_types import Body
from dcp_operator.api.naming import (
    API_VERSION,
    GENERATION_ANNOTATION,
    KIND,
    MANAGED_BY,
    MANAGED_BY_LABEL,
    STORE_KIND,
    STORE_LABEL,
)
from dcp_operator.api.store.spec import CheckpointStore
from dcp_operator.controllers.store.actions import StartValidation
from dcp_operator.controllers.store.validation import PROBED, VALIDATES, Validation, asked_of

_RETRIES: Final = 1
_START_SECONDS: Final = 300
_ACTIVE_SECONDS: Final = 300
_WAYS: Final = {"options", "credentials_secret_ref", "ca_secret_ref"}


def checkpoint_of_validation(store: CheckpointStore, action: StartValidation) -> Body:
    """Return the Validate: with the options, the credentials and the account that Checkpoints of the store have."""
    way = store.spec.model_dump(mode="json", by_alias=True, exclude_unset=True, include=_WAYS)
    spec: Body = {
        "operation": VALIDATES.value,
        "storage": {"url": f"{store.spec.url.rstrip('/')}/{PROBED}", **way},
        "retries": _RETRIES,
        "timeouts": {"startSeconds": _START_SECONDS, "activeSeconds": _ACTIVE_SECONDS},
    }
    if not store.spec.writable:
        spec[VALIDATES.module] = {"readOnly": True}
    if store.spec.service_account_name is not None:
        spec["workers"] = {"podTemplate": {"spec": {"serviceAccountName": store.spec.service_account_name}}}
    owner = {
        "apiVersion": API_VERSION,
        "kind": STORE_KIND,
        "name": store.name,
        "uid": store.uid,
        "controller": True,
    }
    metadata = {
        "name": action.name,
        "namespace": store.namespace,
        "labels": {MANAGED_BY_LABEL: MANAGED_BY, STORE_LABEL: store.name},
        "annotations": {GENERATION_ANNOTATION: str(store.generation)},
        "ownerReferences": [owner],
    }
    return {"apiVersion": API_VERSION, "kind": KIND, "metadata": metadata, "spec": spec}


def validates(found: Validation, store: CheckpointStore, validated: int) -> bool:
    """Return whether a Checkpoint that a store controls is one that would be made of it: anybody may have made it.

    One of an earlier spec can't be compared any more. It is waited for until something is known of the present one.

    Args:
        found: The Checkpoint.
        store: The store.
        validated: Generation of the spec that the last validation was about.
    """
    if found.generation != store.generation:
        return found.generation < store.generation != validated
    made = checkpoint_of_validation(store, StartValidation(name=found.name))
    return asked_of(made["spec"]) == found.asked
