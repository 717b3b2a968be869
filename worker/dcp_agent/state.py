"""What a training script hands the agent as its state."""

from collections.abc import Callable
from typing import Any, Final

from torch.distributed.checkpoint.stateful import Stateful

from dcp_engine.errors import InvalidOption

StateDict = dict[str, Any]
State = dict[str, Stateful | Any] | Callable[[], StateDict] | tuple[Callable[[], StateDict], Callable[[StateDict], Any]]
"""A dict of objects with `state_dict` and `load_state_dict`; a function that returns a state dict; or that function and
one that takes what was loaded."""
_FORMS: Final = "a dict, a function that returns a state dict, or a pair of such a function and one that takes it back"


class TrainingState:
    """The state, in one form: `get` for a save, `get` and `put` around a load."""

    def __init__(self, state: State) -> None:
        """Take the state in any of its forms.

        Raises:
            InvalidOption: it has none of them.
        """
        self._put: Callable[[StateDict], Any] | None = None
        if isinstance(state, dict):
            given = state
            self.get: Callable[[], StateDict] = lambda: given
        elif isinstance(state, tuple) and len(state) == 2 and all(map(callable, state)):  # noqa: PLR2004 - a pair
            self.get, self._put = state
        elif callable(state):
            self.get = state
        else:
            raise InvalidOption(f"state: {_FORMS}; not {type(state).__name__}")

    def put(self, loaded: StateDict) -> None:
        """Hand what was loaded to whoever asked for it; the tensors of the other forms were filled in place."""
        if self._put is not None:
            self._put(loaded)
