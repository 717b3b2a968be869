"""What a store came to stands in the status before an attempt is created."""

from dcp_operator.api.checkpoint.status import Phase, StorePlace
from dcp_operator.controllers.checkpoint.inputs import CheckResult, Inputs


def record_place(inputs: Inputs) -> CheckResult | None:
    """Write down what the store came to.

    An attempt that was created before the status told of it might save to another place than the next attempt, and
    whoever deletes the Checkpoint would remove its data at a third one.
    """
    store, storage = inputs.checkpoint.store, inputs.checkpoint.spec.storage
    if inputs.current_attempt is not None or store is None or store.settled:
        return None
    place = StorePlace(
        name=store.name,
        url=storage.url,
        options=storage.options,
        credentials_secret=storage.credentials_secret_ref.name if storage.credentials_secret_ref else "",
        ca_secret=storage.ca_secret_ref.name if storage.ca_secret_ref else "",
        service_account=storage.service_account_name or "",
    )
    return CheckResult(
        status=inputs.status.with_changes(phase=Phase.PENDING, reason=None, store=place, progress=None),
        message=f"{store.path} of store {store.name} is {storage.url}.",
        wake_at=inputs.now,
    )
