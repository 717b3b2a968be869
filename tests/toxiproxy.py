"""A TCP proxy that delays, throttles, stalls and resets, so that a local server behaves like a far or a sick one."""

import json
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from s3_server import S3Server, free_port


@dataclass(frozen=True)
class Proxy:
    """One proxy before one server."""

    api: str
    server: S3Server
    """The server behind the proxy, at the proxy's address."""

    def add(self, kind: str, *, stream: str = "downstream", toxicity: float = 1.0, **attributes: Any) -> None:
        """Add a toxic to every connection made from now on, with a probability of `toxicity`."""
        body = {"name": f"{kind}-{stream}", "type": kind, "stream": stream, "toxicity": toxicity}
        self._call("POST", "/proxies/s3/toxics", body | {"attributes": attributes})

    def remove(self, kind: str, *, stream: str = "downstream") -> None:
        self._call("DELETE", f"/proxies/s3/toxics/{kind}-{stream}")

    def _call(self, method: str, path: str, body: dict[str, Any] | None = None) -> None:
        data = json.dumps(body).encode() if body else None
        headers = {"Content-Type": "application/json", "User-Agent": "tests"}
        request = urllib.request.Request(self.api + path, data, headers, method=method)  # noqa: S310 - our own proxy
        urllib.request.urlopen(request, timeout=5).close()  # noqa: S310


@contextmanager
def before(server: S3Server) -> Iterator[Proxy]:
    """Put a proxy before a server; it does nothing until a toxic is added."""
    from cluster.builds import program

    port, listen = free_port(), free_port()
    command = [str(program("toxiproxy-server")), "-host", "127.0.0.1", "-port", str(port)]
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
