"""Has a rank of a stack's program stopped, at the step that a test wants."""

import gc
import os
import signal
import time

from dcp_agent.agreement import NEVER, Gate


def stop_this_rank() -> None:
    """Get SIGTERM, and train on once the agent has heard of it: not before it, however busy the machine is."""
    (gate,) = (each for each in gc.get_objects() if type(each) is Gate)
    os.kill(os.getpid(), signal.SIGTERM)
    deadline = time.monotonic() + 60
    while gate.limit >= NEVER:
        if time.monotonic() > deadline:
            raise TimeoutError("the agent has not heard of SIGTERM")
        time.sleep(0.01)
