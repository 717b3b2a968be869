"""kubectl as a test or a fixture calls it."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cluster.builds import program
from cluster.processes import run


@dataclass(frozen=True)
class Kubectl:
    """kubectl with one kubeconfig: `kubectl("get", "pods")` returns what it prints, or raises CommandError."""

    kubeconfig: Path

    def __call__(self, *arguments: str, stdin: str | None = None, timeout: float = 180) -> str:
        """Run it and return its standard output."""
        command: list[str | Path] = [program("kubectl"), "--kubeconfig", self.kubeconfig, *arguments]
        return run(command, stdin=stdin, timeout=timeout)

    def apply(self, objects: Sequence[dict[str, Any]]) -> None:
        """Apply objects that are at hand as dicts."""
        self("apply", "-f", "-", stdin=json.dumps({"apiVersion": "v1", "kind": "List", "items": list(objects)}))

    def get(self, *arguments: str) -> Any:
        """Return what `kubectl get ... -o json` says, decoded."""
        return json.loads(self("get", *arguments, "-o", "json"))
