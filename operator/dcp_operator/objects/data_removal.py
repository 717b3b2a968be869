"""The Delete of what a deleted Checkpoint has saved. The same in, the same out."""

from typing import Final

from dcp_contract.operations import DeleteFields
from dcp_operator.api.checkpoint.spec import Checkpoint
from dcp_operator.api.json_types import Body, ReadBody
from dcp_operator.api.naming import API_VERSION, KIND, MANAGED_BY, MANAGED_BY_LABEL, data_removal_name
from dcp_operator.controllers.deletion.removal import DataRemoval, asked_of
from dcp_operator.controllers.series.runs import REMOVES
from dcp_operator.objects.series_run import removal_workers

_RETRIES: Final = 20
"""As many as a Checkpoint may have: the deadline of the deletion ends it."""
_LOOKS: Final = 2
"""The same where nobody knows whether anything was saved."""
_START_SECONDS: Final = 600
_ACTIVE_SECONDS: Final = 3600


def checkpoint_of_data_removal(checkpoint: Checkpoint, body: ReadBody, fields: DeleteFields) -> Body:
    """Return the Delete: at the same URL by the same way, which is told in the deleted Checkpoint's own spec.

    Args:
        checkpoint: The deleted Checkpoint.
        body: The same, as it stands in the cluster.
        fields: What is to be removed.
    """
    spec, seconds = body["spec"], checkpoint.spec.timeouts.deletion_seconds
    made: Body = {
        "operation": REMOVES.value,
        "storage": spec["storage"],
        REMOVES.module: fields.model_dump(mode="json", by_alias=True, exclude_unset=True),
        "retries": _RETRIES if fields.save_id is not None else _LOOKS,
        "timeouts": {"startSeconds": min(_START_SECONDS, seconds), "activeSeconds": min(_ACTIVE_SECONDS, seconds)},
    }
    if workers := removal_workers(spec.get("workers") or {}):
        made["workers"] = workers
    owner = {
        "apiVersion": API_VERSION,
        "kind": KIND,
        "name": checkpoint.name,
        "uid": checkpoint.uid,
        "controller": True,
    }
    metadata = {
        "name": data_removal_name(checkpoint.name, checkpoint.uid),
        "namespace": checkpoint.namespace,
        "labels": {MANAGED_BY_LABEL: MANAGED_BY},
        "ownerReferences": [owner],
    }
    return {"apiVersion": API_VERSION, "kind": KIND, "metadata": metadata, "spec": made}


def removes(removal: DataRemoval, checkpoint: Checkpoint, body: ReadBody, fields: DeleteFields) -> bool:
    """Return whether a Delete is one that would be made of these: by the save's id, or by the uid of who saved it."""
    asked = (fields, DeleteFields(saved_by=checkpoint.uid))
    return any(asked_of(checkpoint_of_data_removal(checkpoint, body, each)["spec"]) == removal.asked for each in asked)


def goes_by_other_keys(removal: DataRemoval, checkpoint: Checkpoint, body: ReadBody) -> bool:
    """Return whether a Delete goes to the right place by keys that the store does not name any more."""
    ours, theirs = body["spec"]["storage"], removal.asked.get("storage") or {}
    return checkpoint.store is not None and all(ours.get(each) == theirs.get(each) for each in ("url", "options"))
