"""The agent in the Trainer of transformers, and in the trainers that are made of it.

trainer = Trainer(model, args, train_dataset=data)
AgentCallback(trainer, partial(Agent, prefix="s3://bucket/run", every=timedelta(minutes=30))).train()

A run that goes on has the losses of one that was never stopped: batches are skipped as the Trainer itself skips them.
"""

import json
from collections import defaultdict
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_callback import ExportableState

from dcp_agent.adapters.parts import model_and_optimizers, put_model_and_optimizers, random_numbers, set_random_numbers
from dcp_agent.agent import Agent
from dcp_agent.state import State, StateDict
from dcp_engine import per_rank

_JSON: Final = "trainer"
"""The entry of the Trainer's own state, as JSON. Rank 0 alone saves it."""


class AgentCallback(TrainerCallback):
    """Resumes a Trainer, and tells the agent of its steps. Every rank makes one, in the main thread."""

    def __init__(self, trainer: Trainer, agent: Callable[[State], Agent]) -> None:
        """Join a Trainer that has all it needs to train. Its own saving goes on as its arguments say."""
        self._trainer: Any = trainer
        self._make = agent
        self._agent: Agent | None = None
        self._json, self._prepared = "", False
        self._at = 0
        self._random: dict[str, Any] | None = None
        trainer.add_callback(self)

    def train(self) -> Any:
        """Train from the newest checkpoint on, in place of `trainer.train()`. Every rank calls it.

        Returns:
            What `trainer.train()` returns.

        Raises:
            SystemExit: with code 143, after the save of a stop.
        """
        trainer = self._trainer
        self._prepared = False
        self._agent = self._make((self._get, self._put))
        self._at = self._agent.resume()
        if not self._at:
            return trainer.train()
        with TemporaryDirectory() as folder:
            Path(folder, "trainer_state.json").write_text(self._json, encoding="utf-8")
            trainer._load_from_checkpoint = lambda *_, **__: None  # noqa: SLF001 - on_train_begin loads the weights
            try:
                return trainer.train(resume_from_checkpoint=folder)
            finally:
                del trainer._load_from_checkpoint  # noqa: SLF001

    # The Trainer reads where it stands before it has an optimizer. So much is loaded first, the rest once it has one.

    def _get(self) -> StateDict:
        trainer = self._trainer
        if not self._prepared:
            return {_JSON: ""}
        state = model_and_optimizers([trainer.model_wrapped], [trainer.optimizer.optimizer])
        state |= {"scheduler": trainer.lr_scheduler, "random": per_rank(random_numbers())}
        if trainer.accelerator.scaler is not None:
            state["scaler"] = trainer.accelerator.scaler
        if trainer.state.is_world_process_zero:
            state[_JSON] = self._trainer_state()
        return state

    def _put(self, loaded: StateDict) -> None:
        if not self._prepared:
            self._json = loaded[_JSON]
            return
        trainer = self._trainer
        put_model_and_optimizers([trainer.model_wrapped], [trainer.optimizer.optimizer], loaded)
        self._random = loaded["random"].value

    def _trainer_state(self) -> str:
        exported = defaultdict(list)
        for each in (*self._trainer.callback_handler.callbacks, self._trainer.control):
            if isinstance(each, ExportableState):
                exported[type(each).__name__].append(each.state())
        callbacks = {name: states if len(states) > 1 else states[0] for name, states in exported.items()}
        return json.dumps({**asdict(self._trainer.state), "stateful_callbacks": callbacks})

    # What the Trainer calls. A boundary is where the step before has been logged and evaluated.

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Load all but the Trainer's own state, now that model and optimizer are as they are trained."""
        if self._agent is not None:
            self._prepared = True
            if self._at:
                self._agent.resume()

    def on_epoch_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Announce the end of the epoch before, or set the random numbers of a run that goes on there."""
        self._set_random_numbers(state, mid_epoch=False)
        self._at_boundary(state)

    def on_step_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Announce the step before, or set the random numbers of a run that goes on within an epoch."""
        self._set_random_numbers(state, mid_epoch=True)
        self._at_boundary(state)

    def on_prediction_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Let the ranks save in the middle of an evaluation, too."""
        self._at_boundary(state)
        if self._agent is not None:
            self._agent.poll()

    def on_evaluate(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Save the end, where an evaluation has ended training."""
        if control.should_training_stop:
            self._end(state)

    def on_epoch_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Save the end, before the Trainer puts the best model in the place of the last."""
        if control.should_training_stop:
            self._end(state)

    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """End, where there was no step to train."""
        self._end(state)

    def _at_boundary(self, state: TrainerState) -> None:
        if self._agent is not None and state.global_step > self._at:
            self._at = state.global_step
            self._agent.step(self._at)

    def _set_random_numbers(self, state: TrainerState, *, mid_epoch: bool) -> None:
        if self._random is not None and bool(state.epoch % 1) == mid_epoch:
            set_random_numbers(self._random)
            self._random = None

    def _end(self, state: TrainerState) -> None:
        self._at_boundary(state)
        if self._agent is not None:
            agent, self._agent = self._agent, None
            agent.close()
