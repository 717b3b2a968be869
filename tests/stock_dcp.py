"""PyTorch's own DCP, from the modules that define it: type checkers don't see what its package re-exports."""

from torch.distributed.checkpoint.default_planner import DefaultSavePlanner
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save

try:
    from torch.distributed.checkpoint.fsspec_filesystem import FsspecReader, FsspecWriter
except ModuleNotFoundError:  # torch 2.13
    from torch.distributed.checkpoint._fsspec_filesystem import FsspecReader, FsspecWriter

__all__ = ["DefaultSavePlanner", "FsspecReader", "FsspecWriter", "load", "save"]
