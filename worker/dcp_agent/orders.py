"""What rank 0 tells all ranks of the save that they agreed on: `agreement.Go.order`, as JSON."""

from typing import Final

from pydantic import Field

from dcp_contract.checkpoint_info import Origin
from dcp_contract.message import Url, Wire


class SaveOrder(Wire):
    """Whom a save answers, and where it goes. Without a request it is training's own."""

    requests: list[str] = Field(default_factory=list)
    """Ids of the requests that the save answers."""
    url: Url | None = None
    """None for `<prefix>/step-<n>`."""
    overwrite: bool = False
    """Whether a checkpoint that stands there is replaced."""
    origin: Origin | None = None
    """What the manifest says of who saved."""


NO_ORDER: Final = SaveOrder()
