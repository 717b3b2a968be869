"""The agent in the Trainer of Lightning, under any strategy that torch's own state dicts know: DDP, FSDP2, one device.

    agent = partial(Agent, prefix="s3://bucket/run", every=timedelta(minutes=30))
    trainer = Trainer(callbacks=[LightningAgentCallback(agent)])
    trainer.fit(module, loader)

A callback and no strategy: a run finds by itself what it goes on from, without a `ckpt_path`, under whatever strategy.
"""

import io
import signal
from collections.abc import Callable
from typing import Any

import lightning.pytorch
import torch
from lightning.fabric.utilities.data import _set_sampler_epoch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.trainer import call

from dcp_agent.adapters.parts import model_and_optimizers, put_model_and_optimizers, random_numbers, set_random_numbers
from dcp_agent.agent import Agent
from dcp_agent.signals import HEARD
from dcp_agent.state import State, StateDict
from dcp_engine import per_rank


class LightningAgentCallback(Callback):
    """Resumes `Trainer.fit`, and tells the agent of its steps. Every rank makes one.

    The place in the data is saved where the loader has a state, as torchdata's StatefulDataLoader has.
    """

    def __init__(self, agent: Callable[[State], Agent]) -> None:
        """Take what makes the agent of a state."""
        self._make = agent
        self._agent: Agent | None = None
        self._trainer: Any = None
        self._at = 0
        self._random: dict[str, Any] | None = None
        self._loaders: list[Any] = []
        self._handlers: dict[int, tuple[Any, Any]] = {}

    def _get(self) -> StateDict:
        own = io.BytesIO()
        torch.save(self._of_trainer(), own)
        parts = model_and_optimizers([self._trainer.strategy.model], self._trainer.optimizers)
        return {**parts, "trainer": per_rank(own.getvalue()), "random": per_rank(random_numbers())}

    def _put(self, loaded: StateDict) -> None:
        trainer = self._trainer
        put_model_and_optimizers([trainer.strategy.model], trainer.optimizers, loaded)
        self._random = loaded["random"].value
        # What Lightning's own restoring reads, right after on_fit_start.
        connector = trainer._checkpoint_connector  # noqa: SLF001
        found = torch.load(io.BytesIO(loaded["trainer"].value), weights_only=True)
        connector._loaded_checkpoint = found  # noqa: SLF001
        self._loaders = found["loops"]["fit_loop"]["state_dict"].get("combined_loader", [])
        trainer.lightning_module.on_load_checkpoint(found)
        connector.restore_datamodule()
        connector.restore_callbacks()

    def _of_trainer(self) -> dict[str, Any]:
        """Return what Lightning's own checkpoint holds, but for the state of model and optimizers."""
        trainer = self._trainer
        state = {
            "pytorch-lightning_version": lightning.pytorch.__version__,
            "loops": trainer._checkpoint_connector._get_loops_state_dict(),  # noqa: SLF001
            "callbacks": call._call_callbacks_state_dict(trainer),  # noqa: SLF001
            "lr_schedulers": [each.scheduler.state_dict() for each in trainer.lr_scheduler_configs],
            "optimizer_states": [],
        }
        for each in (trainer.precision_plugin, trainer.datamodule):
            if each is not None and (own := each.state_dict()):
                state[type(each).__qualname__] = own
        trainer.lightning_module.on_save_checkpoint(state)
        return state

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Make the agent and resume, before Lightning restores its own state."""
        self._trainer = trainer
        before = {number: signal.getsignal(number) for number in HEARD}
        self._agent = self._make((self._get, self._put))
        self._handlers = {number: (before[number], signal.getsignal(number)) for number in HEARD}
        self._at = self._agent.resume()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take the signals back: Lightning has set handlers meanwhile, and its own waits for a collective."""
        for number, (before, handler) in self._handlers.items():
            if handler != before:
                signal.signal(number, handler)
                trainer._signal_connector._original_handlers[signal.Signals(number)] = before  # noqa: SLF001
        if self._loaders:
            self._go_to_the_data(trainer.fit_loop)

    def _go_to_the_data(self, loop: Any) -> None:
        """Set the loaders once more: Lightning has begun them before it told their samplers the epoch."""
        for each in loop._combined_loader.flattened:  # noqa: SLF001
            _set_sampler_epoch(each, loop.epoch_progress.current.processed)
        loop._combined_loader._load_state_dicts(self._loaders)  # noqa: SLF001
        iter(loop._data_fetcher)  # noqa: SLF001

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Set the random numbers of a run that goes on: the start of a loader has drawn from them."""
        if self._random is not None:
            set_random_numbers(self._random)
            self._random = None

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        """Announce a step, if that batch has ended one."""
        if self._agent is not None and trainer.global_step > self._at:
            self._at = trainer.global_step
            self._agent.step(self._at)

    def on_validation_batch_end(self, trainer: Trainer, *_: Any, **__: Any) -> None:
        """Let the ranks save in the middle of a validation, too."""
        if self._agent is not None and not trainer.sanity_checking:
            self._agent.poll()

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save the end."""
        if self._agent is not None:
            self._agent.close()
