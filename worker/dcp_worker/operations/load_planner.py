"""What a Load reads: the engine's planner with the rules of the operator's own operations."""

import fnmatch
import logging
from collections.abc import Collection, Iterable, Mapping
from typing import Any, Final

import torch
from torch.distributed.checkpoint.default_planner import create_default_local_load_plan
from torch.distributed.checkpoint.metadata import Metadata, TensorStorageMetadata
from torch.distributed.checkpoint.planner import LoadPlan

from dcp_contract.sections import LoadSelection
from dcp_engine.errors import InvalidOption, StateMismatch, some
from dcp_engine.torch_internals import set_element
from dcp_engine.transfer.planner import ByNameLoadPlanner
from dcp_worker.training.state_dict import plain_name

LOG: Final = logging.getLogger(__name__)
_NEAR: Final = 5
"""Names that a message shows of those that a pattern could have meant."""
_STATES: Final = "optim.state."
_GROUPS: Final = "optim.param_groups."


class SelectingLoadPlanner(ByNameLoadPlanner):
    """Loads what a spec selects: globs over DCP names such as `model.blocks.0.*`; everything if there are none.

    If it is strict, the workload and the checkpoint must have the same entries, within each part that the workload has.
    Two things of the optimizer may stay behind all the same, with a warning: the state of what is frozen here, and
    settings that the optimizer here does not have.

    Args:
        selection: What to load.
        field: Where the selection stands in the spec, for errors.
        whole: Keys of objects that load their own state, of which all must be asked for.
        frozen: Parameters that the optimizer here leaves alone.
        adopts_states: Take the optimizer's state as the checkpoint has it, whatever is here.
    """

    def __init__(
        self,
        selection: LoadSelection,
        field: str,
        whole: Iterable[str] = (),
        *,
        frozen: Iterable[str] = (),
        adopts_states: bool = False,
    ) -> None:
        # Else a rank would not know the names of FSDP1's parameters of which it has no shard.
        super().__init__(
            whole,
            strict="both" if selection.strict else "asked",
            flatten_sharded_tensors=False,
            allow_partial_load=not selection.strict,
        )
        self.selection, self._field = selection, field
        self._unneeded = tuple(f"{_STATES}{name}." for name in frozen)
        self._adopts_states = adopts_states

    def set_up_planner(
        self,
        state_dict: dict[str, Any],
        metadata: Metadata | None = None,
        is_coordinator: bool = False,  # noqa: FBT001, FBT002 - torch's signature
    ) -> None:
        """Flatten the state dict and leave out what is not selected.

        Raises:
            InvalidOption: a pattern matches no name; the message shows some that there are.
            StateMismatch: there is nothing to load.
        """
        super().set_up_planner(state_dict, metadata, is_coordinator)
        there = metadata.state_dict_metadata if metadata is not None else {}
        self._adopt(there)
        here = self.state_dict.keys()
        # The checkpoint's own names are known to `exclude` alone: to include what is not here would load nothing.
        self._need_matches("include", self.selection.include, here)
        self._need_matches("exclude", self.selection.exclude, here | there.keys())
        self.state_dict = {name: value for name, value in self.state_dict.items() if self._is_selected(name)}
        if here and not self.state_dict:
            raise InvalidOption(f"{self._field}: include and exclude leave nothing to load")
        self._take_names(there)
        if self.state_dict.keys().isdisjoint(there):
            raise StateMismatch(f"the checkpoint holds nothing of what is to be loaded; {_examples(there)}")

    def plan_asked(self, metadata: Metadata) -> LoadPlan:
        """Plan exactly what is selected: a checkpoint of torch 2.3, with other names, is none that a selection fits."""
        return create_default_local_load_plan(self.state_dict, metadata, strict=self.selection.strict)

    def may_stay(self, name: str) -> bool:
        """Tell whether an entry of the checkpoint may be left out."""
        return not self._is_selected(name) or self._is_optional(name)

    def create_global_plan(self, global_plan: list[LoadPlan]) -> list[LoadPlan]:
        """Warn of what the optimizer loses."""
        plans = super().create_global_plan(global_plan)
        lost = [name for name in self.left_out if self._is_selected(name) and self._is_optional(name)]
        states = {name[len(_STATES) :].rpartition(".")[0] for name in lost if name.startswith(_STATES)}
        if states:
            LOG.warning("frozen here, so its optimizer state is left out: %s", some(states, _NEAR))
        if settings := [name for name in lost if name.startswith(_GROUPS)]:
            LOG.warning("left out, since the optimizer here has no such setting: %s", some(settings, _NEAR))
        return plans

    def _adopt(self, there: Mapping[str, Any]) -> None:
        """Make room for what is to be as the checkpoint has it, and not as it happens to be here."""
        for name in [name for name in self.state_dict if _is_module_state(name) and name in there]:
            self._make_room(name, there[name], ("model", name.removeprefix("model.")))
        if not self._adopts_states:
            return
        known = {name: self.state_dict.pop(name) for name in [*self.state_dict] if name.startswith(_STATES)}
        optim = self.original_state_dict["optim"]
        optim["state"] = {}
        owners = sorted((each for group in optim["param_groups"] for each in group["params"]), key=len, reverse=True)
        for name in there:
            owner = next((each for each in owners if name.startswith(f"{_STATES}{each}.")), None)
            if owner is not None:
                key, *places = name.removeprefix(f"{_STATES}{owner}.").split(".")
                numbers = [int(place) if place.isdecimal() and int(place) < len(there) else place for place in places]
                self._make_room(name, there[name], ("optim", "state", owner, key, *numbers), known.get(name))

    def _make_room(self, name: str, held: object, path: tuple[str | int, ...], room: object = None) -> None:
        """Put something of the checkpoint's shape where an entry goes; what is there and has it stays."""
        if not isinstance(held, TensorStorageMetadata):
            room = None
        elif getattr(room, "shape", None) != held.size:
            room = torch.empty(held.size, dtype=held.properties.dtype)
        self.state_dict[name], self.mappings[name] = room, path
        set_element(self.original_state_dict, path, room)

    def _take_names(self, there: Mapping[str, Any]) -> None:
        """Ask by the checkpoint's names where those have wrappers in them that are none of the saved values."""
        wrapped = {plain_name(name): name for name in there if plain_name(name) != name}
        for name in wrapped.keys() & self.state_dict.keys() - there.keys():
            self.state_dict[wrapped[name]] = self.state_dict.pop(name)
            self.mappings[wrapped[name]] = self.mappings[name]

    def _need_matches(self, field: str, patterns: Iterable[str], names: Collection[str]) -> None:
        for pattern in patterns:
            if not fnmatch.filter(names, pattern):
                raise InvalidOption(f"{self._field}.{field}: {pattern!r} matches no entry; {_examples(names)}")

    def _is_selected(self, name: str) -> bool:
        return selects(self.selection, name)

    def _is_optional(self, name: str) -> bool:
        return name.startswith(_GROUPS) or plain_name(name).startswith(self._unneeded)


def _is_module_state(name: str) -> bool:
    """Tell whether an entry is all that `get_extra_state` of a module returned."""
    return name.startswith("model.") and name.rpartition(".")[2] == "_extra_state"


def selects(selection: LoadSelection, name: str) -> bool:
    """Tell whether an entry of that name is to be loaded."""
    include, exclude = selection.include, selection.exclude
    return (not include or _matches(name, include)) and not _matches(name, exclude)


def _matches(name: str, patterns: Iterable[str]) -> bool:
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)


def _examples(names: Iterable[str]) -> str:
    return f"there are {some(names, _NEAR)}"
