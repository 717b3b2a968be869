"""The kinds that the operator serves. A new kind is a module of pure code and a line here."""

from typing import Final

from dcp_operator.kube.kinds.checkpoint import CHECKPOINT
from dcp_operator.kube.kinds.kind import Kinds
from dcp_operator.kube.kinds.series import CHECKPOINT_SERIES
from dcp_operator.kube.kinds.store import CHECKPOINT_STORE

KINDS: Final = Kinds.of((CHECKPOINT, CHECKPOINT_SERIES, CHECKPOINT_STORE))
