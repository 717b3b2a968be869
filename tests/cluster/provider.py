"""Which kind of cluster this machine can have."""

from typing import Protocol

from cluster.bare import Bare, UnfitMachineError
from cluster.facts import Facts
from cluster.kind import Kind, docker_answers

__all__ = ["Provider", "UnfitMachineError", "provider"]


class Provider(Protocol):
    """What brings a cluster up and takes it down again."""

    def up(self) -> Facts:
        """Bring up what is not up yet."""
        ...

    def down(self) -> None:
        """Remove all of it; does nothing where nothing is up."""
        ...


def provider() -> Provider:
    """Return kind where a Docker engine answers, else the bare provider."""
    return Kind() if docker_answers() else Bare()
