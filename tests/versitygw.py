"""versitygw as the engine's tests look at it: from outside as a client, and from behind as its files, log and counters.

The access log says which requests came and how they ended, but 0 bytes for every object, because versitygw logs before
it streams. The bytes of its answers are in its StatsD counter `bytes_read`, which `Gateway.bytes_sent` receives.
"""

import re
import shutil
import socket
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import pytest

import s3_server
from cluster import builds
from cluster.processes import DIE_WITH_PARENT, until
from free_ports import free_port
from s3_server import S3Server

_COUNTER: Final = re.compile(r"versitygw\.(\w+),\S*\baction=GetObject\b[^:]*:(\d+)\|c")


@dataclass(frozen=True)
class Request:
    """One line of the access log."""

    operation: str
    key: str
    uri: str
    status: int
    error: str


@dataclass
class Gateway:
    """A running versitygw with one bucket."""

    server: S3Server
    folder: Path
    """The bucket: its objects as files."""
    _log: Path
    _pid: int
    _counters: socket.socket
    _counted: dict[str, int] = field(default_factory=lambda: {"success_count": 0, "bytes_read": 0})

    def requests(self) -> list[Request]:
        """Return every request so far that got as far as an answer, or broke off under it."""
        lines = (line.split(" ") for line in self._log.read_text().splitlines()[1:])
        return [Request(line[7], line[8], line[9], int(line[10]), line[11]) for line in lines]

    def files(self, below: str) -> list[str]:
        """Return the objects below a prefix, as they lie on disk, by the rest of their names."""
        root = self.folder / below
        return sorted(path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file())

    def bytes_sent(self) -> int:
        """Return the bytes of objects in all answers so far, by the server's own count."""
        until(self._all_counted, "the server's count of its answers", seconds=10)
        return self._counted["bytes_read"]

    def bytes_taken(self) -> int:
        """Return the bytes that the server has read so far, of requests that still arrive, too: proc_pid_io(5)."""
        counted = Path(f"/proc/{self._pid}/io").read_text()
        return int(counted.split("rchar:")[1].split()[0])

    def _all_counted(self) -> bool:
        """Receive what has come; datagrams may lag behind the log, and one that got lost is never made up for."""
        try:
            while True:
                for name, value in _COUNTER.findall(self._counters.recv(1 << 16).decode()):
                    if name in self._counted:
                        self._counted[name] += int(value)
        except BlockingIOError:
            answered = [one for one in self.requests() if one.operation == "s3_GetObject" and one.error == "-"]
            return self._counted["success_count"] == len(answered)


def parts(server: S3Server, below: str) -> dict[str, int]:
    """Return how many parts each unfinished upload below a prefix has."""
    client = server.client()
    uploads = client.list_multipart_uploads(Bucket=server.bucket, Prefix=below).get("Uploads", [])
    places = [{"Bucket": server.bucket, "Key": upload["Key"], "UploadId": upload["UploadId"]} for upload in uploads]
    return {place["Key"]: len(client.list_parts(**place).get("Parts", [])) for place in places}


@contextmanager
def running(bucket: str = "checkpoints", more_flags: Sequence[str] = ()) -> Iterator[Gateway]:
    """Start versitygw over a folder in memory; it ends with this block, or with this process however that ends."""
    if lacking := builds.lacking(programs=["versitygw", "toxiproxy-server"]):
        pytest.skip(lacking)
    folder = Path(tempfile.mkdtemp(prefix="versitygw-", dir="/dev/shm"))
    log = folder / "access.log"
    (folder / "data" / bucket).mkdir(parents=True)
    port = free_port()
    counters = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    try:
        counters.bind(("127.0.0.1", 0))
        counters.setblocking(False)
        flags = ["--quiet", "--keep-alive", "--port", f"127.0.0.1:{port}", "--access-log", str(log)]
        flags += ["--metrics-statsd-servers", f"127.0.0.1:{counters.getsockname()[1]}"]
        command = [
            *DIE_WITH_PARENT,
            str(builds.program("versitygw")),
            *flags,
            *more_flags,
            "posix",
            str(folder / "data"),
        ]
        with s3_server._serving(command, port, bucket) as (server, pid):
            yield Gateway(server, folder / "data" / bucket, log, pid, counters)
    finally:
        counters.close()
        shutil.rmtree(folder)
