"""Take the cluster down: `python tests/cluster/down.py`, or `make cluster-down`. The cache stays."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from cluster.locks import exclusive
from cluster.places import cache_dir
from cluster.provider import provider

if __name__ == "__main__":
    with exclusive(cache_dir() / "cluster.lock"):
        provider().down()
