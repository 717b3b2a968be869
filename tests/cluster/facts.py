"""What a running cluster tells its tests: one JSON file in the run folder, the same for every provider."""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Self

from cluster.places import run_dir


class NoClusterError(Exception):
    """No cluster is up."""

    def __init__(self) -> None:
        super().__init__("no cluster is up; start one with `make cluster`")


@dataclass(frozen=True)
class S3:
    """An S3 server that the machine and the pods reach at the same address."""

    endpoint: str
    bucket: str
    access_key: str
    secret_key: str
    region: str


@dataclass(frozen=True)
class Facts:
    """The cluster that `make cluster` brought up."""

    provider: str
    kubeconfig: str
    s3: S3
    images: dict[str, str] = field(default_factory=dict)
    """Target of the Dockerfile (operator, worker, examples) -> image name, whose tag follows the content."""

    def write(self) -> None:
        """Keep it for the tests; holds the store's key, so for the owner only."""
        path = _path()
        path.touch(mode=0o600)
        path.write_text(json.dumps(asdict(self), indent=1))

    @staticmethod
    def known() -> bool:
        """Return whether a cluster was brought up to its end."""
        return _path().exists()

    @classmethod
    def read(cls) -> Self:
        """Return what the running cluster wrote; NoClusterError where none is up."""
        if not cls.known():
            raise NoClusterError
        stored = json.loads(_path().read_text())
        return cls(**{**stored, "s3": S3(**stored["s3"])})


def _path() -> Path:
    return run_dir() / "cluster.json"
