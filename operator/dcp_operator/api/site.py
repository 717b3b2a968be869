"""Where a Checkpoint is to run, as far as it matters to what its spec may say."""

from typing import Final, Self

from dcp_contract.message import Wire
from dcp_operator.api.pod.rules import PodSecurity
from dcp_operator.api.storage_url import DEFAULT_PROTOCOLS


class Site(Wire):
    """Where a Checkpoint is to run, as far as it matters to what its spec may say."""

    protocols: tuple[str, ...] = DEFAULT_PROTOCOLS
    file_needs_volume: bool = True
    """A path of a pod's own file system is gone with the pod."""
    pod_security: PodSecurity = PodSecurity.RESTRICTED
    cluster_id: str = ""
    """uid of the namespace kube-system, by which a Save knows its own cluster's checkpoints; empty where it is not
    known."""
    knows_cluster: bool = True
    """Whether a Save that adopts knows its own cluster's checkpoints."""
    has_trainings: bool = True
    """A training that runs already can be reached."""

    @classmethod
    def local(cls) -> Self:
        """Return the site of `dcp run`: this machine's files are there to stay, and tests may use memory."""
        return cls(
            protocols=(*DEFAULT_PROTOCOLS, "memory"),
            file_needs_volume=False,
            pod_security=PodSecurity.NAMESPACE,
            knows_cluster=False,
            has_trainings=False,
        )

    def widest(self) -> Self:
        """Return the site of an operator that is configured to accept all that there is."""
        protocols = (*DEFAULT_PROTOCOLS, *(each for each in self.protocols if each not in DEFAULT_PROTOCOLS))
        widest = {"protocols": protocols, "pod_security": PodSecurity.NAMESPACE, "knows_cluster": True}
        return self.model_copy(update=widest)


CLUSTER: Final = Site()
LOCAL: Final = Site.local()
