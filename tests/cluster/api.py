"""A Kubernetes API server without nodes, on this machine's loopback: `python tests/cluster/api.py [COMMAND...]`.

Runs the command with KUBECONFIG set; without one, prints KUBECONFIG and waits for Ctrl-C. Nothing remains afterwards.
"""

import os
import signal
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from cluster.controlplane import api_server


def main(command: list[str]) -> int:
    """Bring the server up, run the command or wait, and return the exit status."""
    with api_server() as plane:
        if command:
            environment = {**os.environ, "KUBECONFIG": str(plane.kubeconfig())}
            return subprocess.run(command, env=environment, check=False).returncode
        print(f"export KUBECONFIG={plane.kubeconfig()}", flush=True)
        signal.sigwait({signal.SIGINT, signal.SIGTERM})
        return 0


if __name__ == "__main__":
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    sys.exit(main(sys.argv[1:]))
