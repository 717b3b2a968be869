"""Bring up a real Kubernetes with our images and an S3 server: `python tests/cluster/up.py`, or `make cluster`."""

import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from cluster.locks import exclusive
from cluster.places import cache_dir
from cluster.provider import UnfitMachineError, provider


def main() -> None:
    """Bring it up and print where it is; a machine that can't have it gets one line that says what it lacks."""
    started = time.monotonic()
    try:
        with exclusive(cache_dir() / "cluster.lock"):
            facts = provider().up()
    except UnfitMachineError as error:
        sys.exit(str(error))
    print(f"up in {time.monotonic() - started:.0f} s by the {facts.provider} provider")
    for target, image in facts.images.items():
        print(f"{target:<9} {image}")
    print(f"S3        {facts.s3.endpoint}, bucket {facts.s3.bucket}")
    print(f"export KUBECONFIG={facts.kubeconfig}")


if __name__ == "__main__":
    main()
