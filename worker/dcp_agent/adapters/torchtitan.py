"""The agent as the checkpoint manager of torchtitan.

    config.checkpoint = AgentCheckpointManager.Config(enable=True, folder="s3://bucket/run", interval=500)

The Trainer needs no other change: it loads by the manager, and calls it after each step.
"""

from dataclasses import dataclass
from typing import Any

from torchtitan.components.checkpointer import MODEL, CheckpointManager

from dcp_agent.agent import Agent
from dcp_agent.keeping import Keep
from dcp_agent.state import StateDict


class AgentCheckpointManager(CheckpointManager):
    """Saves at each `interval`, on request and before an end; resumes from the newest checkpoint below `folder`.

    What the Trainer begins with where there is none, `initial_load_path` and the like, is torchtitan's own.
    """

    @dataclass(kw_only=True, slots=True)
    class Config(CheckpointManager.Config):
        """torchtitan's own options; `last_save_model_only`, `async_mode` and `load_step` have no meaning here."""

    def __init__(self, config: Config, **parts: Any) -> None:
        """Take what the Trainer hands to its manager."""
        super().__init__(config, **parts)
        self._agent: Agent | None = None
        if self.enable:
            keep = Keep(last=config.keep_latest_k) if config.keep_latest_k else None
            self._agent = Agent((self._get, self._put), self.folder, every_steps=config.interval, keep=keep)

    def _get(self) -> StateDict:
        states: StateDict = self._flattened_model_states_sd()
        return states

    def _put(self, loaded: StateDict) -> None:
        self.states[MODEL].load_state_dict(loaded)

    def _load(self, step: int = -1) -> bool:
        if self._agent is not None and self._agent.resume():
            return True
        return bool(super()._load(step))

    def _save(self, curr_step: int, last_step: bool = False) -> bool:  # noqa: FBT001, FBT002 - torchtitan's
        if self.load_only or self._agent is None:
            return False
        self._agent.step(curr_step)
        if last_step:
            self._agent.close()
        return last_step
