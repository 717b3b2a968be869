"""What torch, gloo, NCCL and CUDA write into their errors, where no class tells one from another.

Nothing here imports torch: a launcher reads errors without it. `tests/test_torch_messages.py` finds each text in the
torch that is installed, or makes torch write it. Checked on torch 2.13, 2.14 and 2.15.
"""

import re
from typing import Final

CLOSED: Final = ("Connection closed by peer", "Connection reset by peer")
"""What gloo says of a rank that died in the middle of a collective; the kernel says the second."""

TIMED_OUT: Final = re.compile(r"[Tt]imed out")
"""What gloo and torch's store say when a rank did not answer within the timeout."""

ABSENT: Final = re.compile(r"Ranks ([\d, ]+) failed to pass")
"""`monitored_barrier(wait_all_ranks=True)`, on rank 0: the numbers of the ranks that did not come."""

COLLECTIVE: Final = ("gloo", "NCCL", "c10d")
"""One of these stands in what torch.distributed raises as a RuntimeError: a source path, or the library's name."""

NO_MEMORY: Final = (
    "defaultcpuallocator",
    "out of memory",
    "out of shared memory",
    "cannot allocate memory",
    "bad_alloc",
    "status_alloc_failed",
)
"""What torch, CUDA, NCCL and gloo write where an allocation failed, in lower case."""

OWN_FAULT: Final = (
    "ncclinvalidusage",
    ", invalid usage",
    "ncclinvalidargument",
    ", invalid argument",
    "unhandled cuda error",
    "duplicate gpu",
    "data type is not supported",
    "unsupported data type",
    "invalid scalar type",
    "op.preamble.length",
)
"""What a collective says of its caller, or of the caller's device, and not of another rank; in lower case.

"Invalid argument" and "not supported" alone are also what the kernel says of a connection.
"Duplicate GPU" is of the NCCL of torch 2.13; later ones say "invalid usage" of that, too.
"""
