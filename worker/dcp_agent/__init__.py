"""A few lines in a training loop: saved on request, in time, and before the training ends; resumed from the newest.

    from dcp_agent import Agent
    agent = Agent(state, "s3://bucket/run", every=timedelta(minutes=30))
    for step in range(agent.resume(), steps):
        train_one_step()
        agent.step(step + 1)
    agent.close()

Needs no Kubernetes.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dcp_agent.agent import STOPPED_EXIT_CODE, Agent
    from dcp_agent.keeping import Keep
    from dcp_agent.saves import Saved

_HOMES = {"STOPPED_EXIT_CODE": "agent", "Agent": "agent", "Keep": "keeping", "Saved": "saves"}

__all__ = ["STOPPED_EXIT_CODE", "Agent", "Keep", "Saved"]


def __getattr__(name: str) -> Any:  # noqa: ANN401 - any of the above
    """Import what is asked for, so that the protocol is read without torch."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
