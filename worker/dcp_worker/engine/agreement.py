"""What ranks say of one name: it must be one thing. Pure.

DCP saves what several ranks offer under one name from one of them, and notes the type and shape that it heard first:
the bytes of another rank would be read as something that they are not.
"""

from collections.abc import Iterable

from torch.distributed.checkpoint.planner import SavePlan, WriteItem

from dcp_worker.engine.errors import UnsavableState
from dcp_worker.engine.tensors import look


def refuse_unlike(plans: Iterable[SavePlan]) -> None:
    """Refuse one name for different kinds of values.

    Raises:
        UnsavableState: it names each entry, what it is and on which rank.
    """
    first: dict[str, tuple[int, object]] = {}
    faults: dict[str, str] = {}
    for rank, plan in enumerate(plans):
        for item in plan.items:
            name, kind = item.index.fqn, _kind(item)
            found_on, found = first.setdefault(name, (rank, kind))
            if found != kind:
                faults.setdefault(name, f"is {_words(found)} on rank {found_on} and {_words(kind)} on rank {rank}")
    if faults:
        raise UnsavableState.of(faults)


def _kind(item: WriteItem) -> object:
    data = item.tensor_data
    return None if data is None else (data.size, data.properties.dtype)


def _words(kind: object) -> str:
    return "an object" if kind is None else look(*kind)  # type: ignore[misc] # shape and type of a tensor
