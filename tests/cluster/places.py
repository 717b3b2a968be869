"""Where things lie: a cache that outlives the cluster, and a run folder that goes with it. Both outside the tree."""

import os
from pathlib import Path
from typing import Final

TREE: Final = Path(__file__).resolve().parents[2]
"""The repository's root."""


def cache_dir() -> Path:
    """Return what is kept between clusters: built programs, the base image, image layers."""
    return Path(os.environ.get("DCP_CACHE") or Path.home() / ".cache/dcp-operator")


def run_dir() -> Path:
    """Return the state of the running cluster: keys, databases, logs, process records, the kubeconfig."""
    return Path(os.environ.get("DCP_CLUSTER_DIR") or "/var/tmp/dcp-operator-cluster")
