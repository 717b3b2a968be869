"""What is known of a store beside its own object, as a small frozen value."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class StoreObserved:
    """What a decision about a store looks at."""

    default: str = ""
    """Name of the namespace's default store; empty where none is."""
