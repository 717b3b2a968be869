"""Build programs into the cache and print where they are: `python tests/cluster/build.py [NAME...]`.

Without a name, all that a cluster needs.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from cluster.builds import programs
from cluster.versions import CLUSTER

if __name__ == "__main__":
    for path in programs(sys.argv[1:] or CLUSTER).values():
        print(path)
