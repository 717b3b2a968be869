"""The kinds that the operator serves. A new kind is a module of pure code and a line here."""

from typing import Final

from dcp_operator.kube.kinds.checkpoint import CHECKPOINT
from dcp_operator.kube.kinds.kind import Kinds

KINDS: Final = Kinds.of((CHECKPOINT,))
