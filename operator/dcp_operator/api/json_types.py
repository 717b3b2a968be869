"""Objects of the Kubernetes API as the JSON that they are, where no model is worth it: Jobs, Pods, Services."""

from collections.abc import Mapping
from typing import Any

Body = dict[str, Any]
"""An object, or a part of one, that is built or sent."""
ReadBody = Mapping[str, Any]
"""An object, or a part of one, that is only read."""
