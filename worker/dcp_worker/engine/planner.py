"""The planner of `engine.load` where its caller brings none."""

from torch.distributed.checkpoint.default_planner import DefaultLoadPlanner, create_default_local_load_plan
from torch.distributed.checkpoint.planner import LoadPlan


class ByNameLoadPlanner(DefaultLoadPlanner):
    """Looks for an old checkpoint's names only where those asked for are not all there.

    DCP's own takes a checkpoint for one of torch 2.3, which named nested values differently, as soon as a rank has no
    shard of some ShardedTensor; then it does not find nested values that are there.
    """

    def create_local_plan(self) -> LoadPlan:
        """Plan what is asked for; as DCP does, where some of it is not there."""
        assert self.metadata is not None  # noqa: S101 - set_up_planner got it
        if self.state_dict.keys() <= self.metadata.state_dict_metadata.keys():
            return create_default_local_load_plan(self.state_dict, self.metadata)
        return super().create_local_plan()
