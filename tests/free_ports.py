"""Ports for servers that a test is about to start.

What the kernel names as free may be taken a moment later, by an outgoing connection of any process, or by another test
that asks the kernel. So a port comes from below those ports, and by chance.
"""

import random
import socket
from contextlib import ExitStack
from typing import Final

LOOPBACK: Final = "127.0.0.1"
_PORTS: Final = range(12_000, 29_990)
"""Below the ports of outgoing connections (32768 and up), and below Kubernetes' node ports (30000 and up)."""
_random: Final = random.SystemRandom()


def free_port(neighbours: int = 0) -> int:
    """Return a port of the loopback address that is free, and so are so many ports after it."""
    while True:
        port = _random.choice(_PORTS)
        with ExitStack() as stack:
            try:
                for each in range(port, port + neighbours + 1):
                    stack.enter_context(socket.socket()).bind((LOOPBACK, each))
            except OSError:
                continue
        return port
