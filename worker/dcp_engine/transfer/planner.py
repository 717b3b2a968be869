"""The planner of `dcp_engine.load` where its caller brings none."""

import dataclasses
import logging
from collections.abc import Collection, Iterable, Mapping
from typing import Any, Final, get_args

import numpy as np
import torch
from torch.distributed.checkpoint.default_planner import DefaultLoadPlanner, create_default_local_load_plan
from torch.distributed.checkpoint.metadata import Metadata, TensorStorageMetadata
from torch.distributed.checkpoint.planner import LoadPlan, ReadItem

from dcp_contract.checkpoint_info import LoadSummary
from dcp_engine.call_options import Strict
from dcp_engine.errors import InvalidOption, StateMismatch, some
from dcp_engine.transfer import names, tensors
from dcp_engine.transfer.conversion import can_convert, short

LOG: Final = logging.getLogger(__name__)
_SHOWN: Final = 5


@dataclasses.dataclass(frozen=True)
class _Asked:
    """What one rank says with its plan: a bit for each entry of the checkpoint, in its order."""

    asked: bytes
    converted: bytes


class ByNameLoadPlanner(DefaultLoadPlanner):
    """Looks for an old checkpoint's names only where those asked for are not all there.

    DCP's own takes a checkpoint for one of torch 2.3, which named nested values differently, as soon as a rank has no
    shard of some ShardedTensor; then it does not find nested values that are there.

    Of what the checkpoint holds below the keys in `whole`, some rank must ask for everything: an object that loads its
    own state can't know what it was not given. With `strict="both"` the same holds for every part of which a rank asks
    for something; a part is what a name has before its first dot. Values are converted to the type that they have here,
    as `conversion` says; with `convert=False` none is.
    """

    summary: LoadSummary | None = None
    """After the planning, on every rank: what becomes of the checkpoint's entries."""
    saved_by: int | None = None
    """The number of ranks that saved the checkpoint, if the caller knows it."""
    left_out: tuple[str, ...] = ()
    """The checkpoint's entries that no rank asks for; on the coordinator, from `create_global_plan` on."""

    def __init__(
        self, whole: Iterable[str] = (), *, strict: Strict = "asked", convert: bool = True, **options: bool
    ) -> None:
        super().__init__(**options)
        self._below = tuple(f"{key}." for key in whole)
        if strict not in get_args(Strict):
            raise InvalidOption.none_of("strict", strict, Strict)
        self._both = strict == "both"
        self._convert = convert
        self._stay: tuple[str, ...] = ()

    def let_stay(self, keys: Iterable[str]) -> None:
        """Leave what the checkpoint holds below these keys, whatever else must be asked for."""
        self._stay = tuple(f"{key}." for key in keys)

    def may_stay(self, name: str) -> bool:
        """Tell whether an entry may be left out of a load of both sides; for planners that select."""
        del name
        return False

    def create_local_plan(self) -> LoadPlan:
        """Plan what is asked for, and note what of the checkpoint that is.

        Raises:
            StateMismatch: what is asked for is not there, or can't be converted.
        """
        assert self.metadata is not None  # noqa: S101 - set_up_planner got it
        if faults := tensors.faults(self.state_dict):
            named = [f"{name} {why}" for name, why in faults.items()]
            raise StateMismatch(f"nothing can be loaded into this state: {some(named, separator='; ')}")
        there = self.metadata.state_dict_metadata
        try:
            plan = self.plan_asked(self.metadata)  # which changes the names for those of an old checkpoint
        except RuntimeError as error:
            if missing := [name for name in self.state_dict if name not in there]:
                raise StateMismatch(names.missing(missing, self.state_dict, there, self.saved_by)) from error
            raise
        converted = self._conversions(there)
        asked = _Asked(_bits(name in self.state_dict for name in there), _bits(name in converted for name in there))
        return dataclasses.replace(plan, planner_data=asked)

    def plan_asked(self, metadata: Metadata) -> LoadPlan:
        """Plan what is asked for; as DCP does, where some of it is not there."""
        if self.state_dict.keys() <= metadata.state_dict_metadata.keys():
            return create_default_local_load_plan(self.state_dict, metadata)
        return super().create_local_plan()

    def create_global_plan(self, global_plan: list[LoadPlan]) -> list[LoadPlan]:
        """Refuse what no rank asks for and some should; each may have another part of the model.

        Raises:
            StateMismatch: there is such an entry.
        """
        assert self.metadata is not None  # noqa: S101 - set_up_planner got it
        there = list(self.metadata.state_dict_metadata)
        asked = _union(there, (plan.planner_data.asked for plan in global_plan))
        converted = _union(there, (plan.planner_data.converted for plan in global_plan))
        self.left_out = left_out = tuple(name for name in there if name not in asked)
        if missed := [name for name in left_out if name.startswith(self._below) and not name.startswith(self._stay)]:
            raise StateMismatch(
                f"the checkpoint holds {some(missed)}, which the object to load does not ask for. "
                "A fresh optimizer has no state yet: torch's get_state_dict makes it. "
                "To leave entries out, pass the object's state_dict() in its place."
            )
        parts = {_part(name) for name in asked} if self._both else set()
        if missed := [name for name in left_out if _part(name) in parts and not self.may_stay(name)]:
            raise StateMismatch(f"the checkpoint holds {some(missed)}, which no rank asks for")
        if converted:
            own = self._conversions(self.metadata.state_dict_metadata)
            LOG.warning("loaded with a conversion: %s", some((own.get(name, name) for name in converted), _SHOWN))
        summary = LoadSummary(loaded=len(asked), left_out=len(left_out), converted=len(converted))
        return super().create_global_plan([dataclasses.replace(plan, planner_data=summary) for plan in global_plan])

    def finish_plan(self, new_plan: LoadPlan) -> LoadPlan:
        """Take the plan, and learn what all ranks ask for together."""
        self.summary = new_plan.planner_data
        return super().finish_plan(new_plan)

    def load_value(self, read_item: ReadItem, value: object) -> None:
        """Put a value where it belongs; DCP's own, which knows keys as text, puts it beside a key that is a number."""
        *path, last = self.mappings[read_item.dest_index.fqn]
        container: Any = self.original_state_dict
        for key in path:
            container = container[_own_key(container, key)]
        container[_own_key(container, last)] = value

    def _conversions(self, there: Mapping[str, Any]) -> dict[str, str]:
        """Return the entries that get another type, each with both types in words; refuse those that can't.

        Raises:
            StateMismatch: values would lose what they mean, such as their fraction, or `convert` is false.
        """
        types: dict[str, str] = {}
        refused = []
        for name, value in self.state_dict.items():
            if name not in there or not isinstance(value, torch.Tensor):
                continue
            held = there[name].properties.dtype if isinstance(there[name], TensorStorageMetadata) else None
            if held == value.dtype:
                continue
            types[name] = f"{name} ({'an object' if held is None else short(held)} to {short(value.dtype)})"
            if held is not None and not can_convert(held, value.dtype):
                refused.append(types[name])
        if refused:
            raise StateMismatch.not_convertible(refused)
        if types and not self._convert:
            raise StateMismatch(f"the checkpoint holds other types, and convert is false: {some(types.values())}")
        return types


def _part(name: str) -> str:
    return name.partition(".")[0]


def _bits(values: Iterable[bool]) -> bytes:
    return np.packbits(np.fromiter(values, dtype=np.bool_)).tobytes()


def _union(names: Collection[str], bits: Iterable[bytes]) -> set[str]:
    """Return the names whose bit some rank has set."""
    ranks = np.stack([np.frombuffer(each, dtype=np.uint8) for each in bits])
    union = np.unpackbits(np.bitwise_or.reduce(ranks, axis=0), count=len(names))
    return {name for name, bit in zip(names, union, strict=True) if bit}


def _own_key(container: Any, key: str | int) -> Any:  # noqa: ANN401 - a list or a mapping
    if not isinstance(container, Mapping) or key in container:
        return key
    return next(own for own in container if str(own) == key)
