"""Whether evictions in a namespace are put before the operator at all: what its series say of it."""

from collections.abc import Callable
from dataclasses import dataclass

from dcp_operator.api.naming import HOLD_LABEL
from dcp_operator.kube.client.api import NAMESPACES, ApiError
from dcp_operator.kube.client.reads import Reads

NO_CHANNEL = "this operator has no channel to trainings, by which the API server could ask it"


@dataclass(frozen=True)
class Coverage:
    """Tells why evictions do not wait.

    Args:
        cluster: Where namespaces are read.
        unasked: Says why the API server does not ask this operator; empty where it does, None while that is not known.
    """

    cluster: Reads
    unasked: Callable[[], str | None] = lambda: NO_CHANNEL

    async def lacking(self, namespace: str) -> str | None:
        """Return why evictions in a namespace do not wait; empty where they do, None where that can't be told now."""
        why = self.unasked()
        if why != "":
            return why
        try:
            found = await self.cluster.get(NAMESPACES, "", namespace)
        except ApiError:
            return None
        labelled = (found["metadata"].get("labels") or {}).get(HOLD_LABEL) == "true"
        return "" if labelled else f"the namespace has no label {HOLD_LABEL}=true"
