"""The planner of `engine.load` where its caller brings none."""

import dataclasses
import io
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch.distributed.checkpoint.default_planner import DefaultLoadPlanner, create_default_local_load_plan
from torch.distributed.checkpoint.metadata import Metadata
from torch.distributed.checkpoint.planner import LoadPlan, ReadItem

from dcp_worker.engine.errors import StateMismatch


class ByNameLoadPlanner(DefaultLoadPlanner):
    """Looks for an old checkpoint's names only where those asked for are not all there.

    DCP's own takes a checkpoint for one of torch 2.3, which named nested values differently, as soon as a rank has no
    shard of some ShardedTensor; then it does not find nested values that are there.

    Of what the checkpoint holds below the keys in `whole`, some rank must ask for everything: an object that loads its
    own state can't know what it was not given.
    """

    def __init__(self, whole: Iterable[str] = (), **options: bool) -> None:
        super().__init__(**options)
        self._below = tuple(f"{key}." for key in whole)

    def create_local_plan(self) -> LoadPlan:
        """Plan what is asked for, and note what is there and not asked for."""
        assert self.metadata is not None  # noqa: S101 - set_up_planner got it
        plan = self.plan_asked(self.metadata)  # which changes the names for those of an old checkpoint
        left_out = self.metadata.state_dict_metadata.keys() - self.state_dict.keys()
        return dataclasses.replace(plan, planner_data={name for name in left_out if name.startswith(self._below)})

    def plan_asked(self, metadata: Metadata) -> LoadPlan:
        """Plan what is asked for; as DCP does, where some of it is not there."""
        if self.state_dict.keys() <= metadata.state_dict_metadata.keys():
            return create_default_local_load_plan(self.state_dict, metadata)
        return super().create_local_plan()

    def create_global_plan(self, global_plan: list[LoadPlan]) -> list[LoadPlan]:
        """Refuse what no rank asks for; each may have another part of the model.

        Raises:
            StateMismatch: there is such an entry.
        """
        if left_out := set.intersection(*(plan.planner_data for plan in global_plan)):
            raise StateMismatch.left_out(left_out)
        return super().create_global_plan([dataclasses.replace(plan, planner_data=None) for plan in global_plan])

    def load_bytes(self, read_item: ReadItem, value: io.BytesIO) -> None:
        """Put a value where it belongs; DCP's own, which knows keys as text, puts it beside a key that is a number."""
        *path, last = self.mappings[read_item.dest_index.fqn]
        container: Any = self.original_state_dict
        for key in path:
            container = container[_own_key(container, key)]
        # The reader has decoded these very bytes with the restricted unpickler.
        container[_own_key(container, last)] = torch.load(value, weights_only=False)


def _own_key(container: Any, key: str | int) -> Any:  # noqa: ANN401 - a list or a mapping
    if not isinstance(container, Mapping) or key in container:
        return key
    return next(own for own in container if str(own) == key)
