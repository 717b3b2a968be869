"""What the operator may read only where somebody has granted it: what is forbidden is said once, and asked again."""

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from http import HTTPStatus
from typing import Final

from dcp_operator.kube.client.api import RefusedError, Resource

logger = logging.getLogger(__name__)

BELIEVED: Final = timedelta(minutes=10)
"""For how long it is believed that something is forbidden."""


@dataclass
class OptionalReads:
    """Which resources may be read.

    Args:
        now: The clock.
        component: Which of the manifests gives the permission, by the plural of the resource.
    """

    now: Callable[[], datetime]
    component: dict[str, str]
    _until: dict[str, datetime] = field(default_factory=dict, init=False)

    def may(self, resource: Resource) -> bool:
        """Return whether a resource is worth asking for."""
        until = self._until.get(resource.plural)
        return until is None or self.now() >= until

    def note(self, resource: Resource, error: RefusedError) -> None:
        """Take in that a resource was refused.

        Raises:
            RefusedError: It is not forbidden, but something else is wrong.
        """
        if error.status != HTTPStatus.FORBIDDEN:
            raise error
        if resource.plural not in self._until:
            component = self.component[resource.plural]
            logger.warning(
                "the operator may not read %s (component %s), and goes on without; it is said once: %s",
                resource.plural,
                component,
                error,
            )
        self._until[resource.plural] = self.now() + BELIEVED
