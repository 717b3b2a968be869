"""What belongs to a rank: the state of its random numbers, its place in the data."""

import re
from collections.abc import Collection, Mapping
from typing import Any, Literal, get_args

import torch.distributed as dist
from torch.distributed.checkpoint.stateful import Stateful

from dcp_engine.errors import InvalidOption, StateMismatch

Resize = Literal["refuse", "keep"]


class PerRank:
    """A value of which every rank has its own, saved and loaded by rank. See `per_rank`."""

    def __init__(self, value: Any, *, resize: Resize, process_group: dist.ProcessGroup | None) -> None:  # noqa: ANN401
        if resize not in get_args(Resize):
            raise InvalidOption.none_of("resize", resize, Resize)
        self.value = value
        """The value; after a load, what was loaded."""
        self.resize = resize
        self._group = process_group

    @property
    def name(self) -> str:
        """The name of this rank's entry, below the key: it says the rank and how many there are."""
        if not (dist.is_available() and dist.is_initialized()):
            return "rank-0-of-1"
        return f"rank-{dist.get_rank(self._group)}-of-{dist.get_world_size(self._group)}"

    @property
    def world_size(self) -> int:
        """How many ranks have such a value."""
        return int(self.name.rpartition("-")[2])

    def state_dict(self) -> dict[str, Any]:
        """Return this rank's entry."""
        return {self.name: self.value.state_dict() if isinstance(self.value, Stateful) else self.value}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take this rank's entry."""
        if isinstance(self.value, Stateful):
            self.value.load_state_dict(state[self.name])
        else:
            self.value = state[self.name]


def per_rank(
    value: Any,  # noqa: ANN401 - whatever a state dict holds
    *,
    resize: Resize = "refuse",
    process_group: dist.ProcessGroup | None = None,
) -> PerRank:
    """Wrap, at the top level of a state dict, a value of which every rank has its own.

        state = {"model": ..., "rng": dcp_engine.per_rank(torch.get_rng_state()), "loader": dcp_engine.per_rank(loader)}

    Every rank's is saved, under a name with its rank and the number of ranks. At a load each rank gets its own back: an
    object with `state_dict` and `load_state_dict` through them, another value as `state["rng"].value`.

    Args:
        value: this rank's value; at a load one of the same make.
        resize: what a load does if another number of ranks saved: raise StateMismatch, or keep the value as it is,
            with a warning.
        process_group: the ranks, if `save` and `load` get a group.
    """
    return PerRank(value, resize=resize, process_group=process_group)


def resized(state_dict: Mapping[str, object], names: Collection[str]) -> set[str]:
    """Return the keys whose values by rank are those of another number of ranks, and stay as they are.

    Raises:
        StateMismatch: such a value is not to stay, or it was not saved by rank.
    """
    return {key for key, value in state_dict.items() if isinstance(value, PerRank) and _is_resized(key, value, names)}


def _is_resized(key: str, target: PerRank, names: Collection[str]) -> bool:
    below = re.compile(rf"{re.escape(key)}\.rank-\d+-of-(\d+)(?:\.|$)")
    own = [name for name in names if name == key or name.startswith(f"{key}.")]
    worlds = {int(match[1]) for name in own if (match := below.match(name))}
    if target.world_size in worlds or not own:
        return False
    if not worlds:
        raise StateMismatch(f"{key} was saved once for all ranks, not by rank: ask for it without dcp_engine.per_rank")
    if target.resize == "refuse":
        raise StateMismatch(
            f"{key} was saved by {max(worlds)} ranks, a value for each; now there are {target.world_size}. Load it on "
            f"{max(worlds)} ranks, leave it out, or let it stay as it is: dcp_engine.per_rank(..., resize='keep')."
        )
    return True
