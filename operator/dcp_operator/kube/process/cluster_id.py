"""Which cluster this is: the uid of the namespace kube-system, which no other cluster has and no rebuilt one gets."""

import logging
from dataclasses import replace
from typing import Final

from dcp_operator.kube.client.api import NAMESPACES, GoneError, RefusedError
from dcp_operator.kube.client.reads import Reads
from dcp_operator.kube.process.settings import Settings

logger = logging.getLogger(__name__)

_NAMESPACE: Final = "kube-system"


async def with_cluster_id(settings: Settings, reads: Reads) -> Settings:
    """Return the settings with the cluster's id, which is read once; without one where it may not be read."""
    if settings.cluster_id:
        return settings
    try:
        found = await reads.get(NAMESPACES, "", _NAMESPACE)
    except (RefusedError, GoneError) as error:
        logger.warning(
            "the id of this cluster is not known (%s): what is saved can't be adopted later, and no Save adopts but by "
            "save.adoptFrom; the uid of namespace %s as --cluster-id mends that",
            error,
            _NAMESPACE,
        )
        return settings
    return replace(settings, cluster_id=str(found["metadata"]["uid"]))
