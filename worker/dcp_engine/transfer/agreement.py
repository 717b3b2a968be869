"""What ranks say of one name: it must be one thing.

DCP saves what several ranks offer under one name from one of them, and notes the type and shape that it heard first:
the bytes of another rank would be read as something that they are not.
"""

import logging
from collections.abc import Iterable, Sequence
from typing import Any, Final

from torch.distributed.checkpoint.metadata import Metadata, MetadataIndex, TensorStorageMetadata
from torch.distributed.checkpoint.planner import SavePlan, WriteItem, WriteItemType

from dcp_engine.call_options import Drift
from dcp_engine.errors import InvalidOption, UnsavableState, some
from dcp_engine.transfer import fingerprint
from dcp_engine.transfer.fingerprint import Prints
from dcp_engine.transfer.payload import Lookup
from dcp_engine.transfer.tensors import shape_and_type

LOG: Final = logging.getLogger(__name__)
_SHOWN: Final = 8


def refuse_other_calls(what: str, values: Sequence[object]) -> None:
    """Refuse ranks that do not take part in one and the same call: `values` holds what each rank says of its own.

    Raises:
        InvalidOption: they differ; it names `what` they are and what each rank says.
    """
    if any(value != values[0] for value in values):
        rank = next(rank for rank, value in enumerate(values) if value != values[0])
        raise InvalidOption(f"{what} differs between ranks: {values[0]!r} on rank 0, {values[rank]!r} on rank {rank}")


def refuse_unlike(plans: Iterable[SavePlan]) -> None:
    """Refuse one name for different kinds of values.

    Raises:
        UnsavableState: it names each entry, what it is and on which rank.
    """
    first: dict[str, tuple[int, object]] = {}
    wholes: dict[str, int] = {}
    shards: dict[str, int] = {}
    faults: dict[str, str] = {}
    for rank, plan in enumerate(plans):
        for item in plan.items:
            name, kind = item.index.fqn, _kind(item)
            found_on, found = first.setdefault(name, (rank, kind))
            if found != kind:
                faults.setdefault(name, f"is {_words(found)} on rank {found_on} and {_words(kind)} on rank {rank}")
            if item.type == WriteItemType.TENSOR:
                wholes.setdefault(name, rank)
            elif _is_part(item):
                shards.setdefault(name, rank)
    for name in wholes.keys() & shards.keys() - faults.keys():
        faults[name] = (
            f"is {_words(first[name][1])}, whole on rank {wholes[name]} and a shard of it on rank {shards[name]}"
        )
    if faults:
        raise UnsavableState.of(faults)


class Comparison:
    """What this rank offers, and on rank 0 whether the others offer the same; a single rank compares nothing."""

    def __init__(self, lookup: Lookup, world_size: int, drift: Drift) -> None:
        self.entries: dict[str, Any] = {}
        """This rank's state by name."""
        self._lookup = lookup
        self._world_size = world_size
        self._compares = world_size > 1
        self._drift = drift
        self._items: Sequence[WriteItem] = ()

    def offer(self, plan: SavePlan) -> Prints:
        """Note what this rank plans before any of it is left to another; return the fingerprints of its objects."""
        if not self._compares:
            return fingerprint.NONE
        # A planner that keeps plans offers none where it is that of the last save.
        self._items = (plan if plan.usable else getattr(self._lookup.planner, "plan", plan)).items
        return fingerprint.of_objects(self.entries)

    def replicas(self) -> Prints:
        """Return the fingerprints of this rank's tensors that others may have, too."""
        if not self._compares or self._drift == "ignore":
            return fingerprint.NONE
        return fingerprint.of_replicas(self._items, self.entries, self._lookup, self._world_size)

    def refuse_different(self, ranks: Sequence[Prints], plans: Iterable[SavePlan]) -> None:
        """Refuse objects that are not the same on the ranks that offer them under one name.

        Raises:
            UnsavableState: it names each entry and the ranks.
        """
        if self._compares and (found := fingerprint.differing(ranks)):
            names = {fingerprint.of_name(item.index): item.index.fqn for plan in plans for item in plan.items}
            entries = some(f"{names.get(key, 'an entry')} ({_on(found[key])})" for key in found)
            raise UnsavableState(
                f"ranks have different values under one name: {entries}. One rank's would be kept for all. "
                "Wrap in dcp_engine.per_rank what belongs to a rank, or give the entry on one rank alone."
            )

    def report_drift(self, ranks: Sequence[Prints], metadata: Metadata) -> None:
        """Warn of replicas that are not equal bit for bit, or refuse them.

        Raises:
            UnsavableState: `drift` is `refuse`; it names each tensor and the ranks.
        """
        if not self._compares or not (found := fingerprint.differing(ranks)):
            return
        texts: dict[str, str] = {}
        for name, stored in metadata.state_dict_metadata.items():
            chunks = stored.chunks if isinstance(stored, TensorStorageMetadata) else []
            for chunk in chunks:
                if unlike := found.get(fingerprint.of_name(MetadataIndex(name, chunk.offsets))):
                    texts.setdefault(name, f"{name} ({_on(unlike)})")
        if self._drift == "refuse":
            raise UnsavableState(f"replicas differ between ranks, and drift is 'refuse': {some(texts.values())}")
        LOG.warning(
            "replicas differ between ranks, and each is saved from one rank alone: %s. Make them equal before a save, "
            "or wrap in dcp_engine.per_rank what belongs to a rank.",
            some(texts.values(), _SHOWN),
        )


def _on(ranks: Sequence[int]) -> str:
    shown = ", ".join(map(str, ranks[:_SHOWN]))
    more = f" and {len(ranks) - _SHOWN} more" if len(ranks) > _SHOWN else ""
    return f"other on rank {shown}{more}"


def _is_part(item: WriteItem) -> bool:
    data = item.tensor_data
    return data is not None and data.chunk is not None and data.chunk.sizes != data.size


def _kind(item: WriteItem) -> object:
    data = item.tensor_data
    return None if data is None else (data.size, data.properties.dtype)


def _words(kind: object) -> str:
    return "an object" if kind is None else shape_and_type(*kind)  # type: ignore[misc] # shape and type of a tensor
