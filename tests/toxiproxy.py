"""A TCP proxy that delays, throttles, stalls and resets, so that a local server behaves like a far or a sick one."""

import json
import shutil
import socket
import struct
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from cluster.processes import DIE_WITH_PARENT
from free_ports import free_port
from s3_server import S3Server

_ESTABLISHED: Final = "01"
"""State of a socket in /proc/net/tcp."""


@dataclass(frozen=True)
class Proxy:
    """One proxy before one server."""

    api: str
    server: S3Server
    """The server behind the proxy, at the proxy's address."""

    def add(self, kind: str, *, stream: str = "downstream", toxicity: float = 1.0, **attributes: Any) -> None:
        """Add a toxic to every connection, open or to come, with a probability of `toxicity`."""
        body = {"name": f"{kind}-{stream}", "type": kind, "stream": stream, "toxicity": toxicity}
        self._call("POST", "/proxies/s3/toxics", body | {"attributes": attributes})

    def remove(self, kind: str, *, stream: str = "downstream") -> None:
        self._call("DELETE", f"/proxies/s3/toxics/{kind}-{stream}")

    def switch(self, *, on: bool) -> None:
        """Stop to listen and break every connection, or listen again."""
        self._call("POST", "/proxies/s3", {"enabled": on})

    def listens(self) -> bool:
        return bool(self._call("GET", "/proxies/s3")["enabled"])

    def toxics(self) -> list[str]:
        return [toxic["type"] for toxic in self._call("GET", "/proxies/s3/toxics")]

    def clients(self) -> set[int]:
        """Return the ports from which clients are connected."""
        port = f":{urlsplit(self.server.endpoint).port:04X}"
        sockets = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
        return {int(one[2][-4:], 16) for one in sockets if one[1].endswith(port) and one[3] == _ESTABLISHED}

    @contextmanager
    def turning_away(self) -> Iterator["TurnedAway"]:
        """While the proxy is switched off, reset every connection to its address."""
        address = urlsplit(self.server.endpoint)
        with socket.create_server((address.hostname or "", address.port or 0)) as listener:
            listener.setblocking(False)
            yield TurnedAway(listener)

    def _call(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        data = json.dumps(body).encode() if body else None
        headers = {"Content-Type": "application/json", "User-Agent": "tests"}
        request = urllib.request.Request(self.api + path, data, headers, method=method)  # noqa: S310 - our own proxy
        with urllib.request.urlopen(request, timeout=5) as answer:  # noqa: S310
            return json.loads(answer.read() or "null")


class TurnedAway:
    """How many clients were turned away."""

    def __init__(self, listener: socket.socket) -> None:
        self._listener = listener
        self._count = 0

    def count(self) -> int:
        """Reset the connections that came since the last call; return how many there were in all."""
        with suppress(BlockingIOError):
            while True:
                connection, _ = self._listener.accept()
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                connection.close()
                self._count += 1
        return self._count


@contextmanager
def before(server: S3Server) -> Iterator[Proxy]:
    """Put a proxy before a server; it does nothing until a toxic is added."""
    from cluster.builds import program

    port, listen = free_port(), free_port()
    command = [*DIE_WITH_PARENT, str(program("toxiproxy-server")), "-host", "127.0.0.1", "-port", str(port)]
    if not shutil.which(command[0]):
        command = command[len(DIE_WITH_PARENT) :]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    proxy = Proxy(f"http://127.0.0.1:{port}", S3Server(f"http://127.0.0.1:{listen}", server.bucket))
    upstream = urlsplit(server.endpoint).netloc
    try:
        _until_up(proxy.api)
        body = {"name": "s3", "listen": f"127.0.0.1:{listen}", "upstream": upstream, "enabled": True}
        proxy._call("POST", "/proxies", body)
        yield proxy
    finally:
        process.terminate()
        process.wait(timeout=10)


def _until_up(api: str) -> None:
    deadline = time.monotonic() + 10
    while True:
        try:
            urllib.request.urlopen(f"{api}/version", timeout=1).close()  # noqa: S310 - our own proxy
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)
        else:
            return
