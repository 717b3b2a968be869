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
    has_trainings: bool = True
    """A training that runs already can be reached."""

    @classmethod
    def local(cls) -> Self:
        """Return the site of `dcp run`: this machine's files are there to stay, and tests may use memory."""
        return cls(
            protocols=(*DEFAULT_PROTOCOLS, "memory"),
            file_needs_volume=False,
            pod_security=PodSecurity.NAMESPACE,
            has_trainings=False,
        )

    def widest(self) -> Self:
        """Return the site of an operator that is configured to accept all that there is."""
        protocols = (*DEFAULT_PROTOCOLS, *(each for each in self.protocols if each not in DEFAULT_PROTOCOLS))
        return self.model_copy(update={"protocols": protocols, "pod_security": PodSecurity.NAMESPACE})


CLUSTER: Final = Site()
LOCAL: Final = Site.local()
