"""Take the cluster down: `python tests/cluster/down.py`, or `make cluster-down`. The cache stays."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from cluster.provider import provider

if __name__ == "__main__":
    provider().down()
