"""S3 servers as child processes, for tests: real servers that speak the real protocol."""

import http.client
import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cluster.processes import DIE_WITH_PARENT
from free_ports import free_port

ACCESS_KEY = "test-access-key"
SECRET_KEY = "test-secret-key"
_CREDENTIALS = {"AWS_ACCESS_KEY_ID": ACCESS_KEY, "AWS_SECRET_ACCESS_KEY": SECRET_KEY}


@dataclass(frozen=True)
class S3Server:
    """Where the server listens, with one bucket that every test may fill."""

    endpoint: str
    bucket: str

    @property
    def options(self) -> dict[str, Any]:
        return {"endpoint_url": self.endpoint, "region": "us-east-1"}

    def url(self, path: str) -> str:
        return f"s3://{self.bucket}/{path}"

    def client(self) -> Any:
        import botocore.session

        session = botocore.session.get_session()
        return session.create_client(
            "s3",
            endpoint_url=self.endpoint,
            region_name="us-east-1",
            aws_access_key_id=ACCESS_KEY,
            aws_secret_access_key=SECRET_KEY,
        )

    def keys(self, prefix: str = "") -> list[str]:
        return [
            entry["Key"]
            for entry in self.client().list_objects_v2(Bucket=self.bucket, Prefix=prefix).get("Contents", [])
        ]

    def uploads(self, prefix: str = "") -> list[str]:
        return [
            entry["Key"]
            for entry in self.client().list_multipart_uploads(Bucket=self.bucket, Prefix=prefix).get("Uploads", [])
        ]


@contextmanager
def running(bucket: str = "checkpoints") -> Iterator[S3Server]:
    """Start moto's server, with one bucket, and set its credentials in this process's environment."""
    with moto() as endpoint, with_bucket(endpoint, bucket) as server:
        yield server


@contextmanager
def moto() -> Iterator[str]:
    """Start moto's server; return where it listens."""
    port = free_port()
    command = [*DIE_WITH_PARENT, sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    endpoint = f"http://127.0.0.1:{port}"
    with child(command, endpoint):
        yield endpoint


@contextmanager
def with_bucket(endpoint: str, bucket: str) -> Iterator[S3Server]:
    """Make a bucket; set the credentials in this process's environment until the block ends."""
    server = S3Server(endpoint, bucket)
    with environment(**_CREDENTIALS):
        server.client().create_bucket(Bucket=bucket)
        yield server


@contextmanager
def versitygw(
    folder: Path, bucket: str = "checkpoints", *, access_log: Path | None = None, versions: Path | None = None
) -> Iterator[S3Server]:
    """Start versitygw over a folder: a fast, independent implementation of the protocol; `versions` keeps versions."""
    from cluster.builds import program

    (folder / bucket).mkdir(parents=True)
    port = free_port()
    command = [str(program("versitygw")), "--quiet", "--keep-alive", "--port", f"127.0.0.1:{port}"]
    if access_log:
        command += ["--access-log", str(access_log)]
    kept = ["--versioning-dir", str(versions)] if versions else []
    with _serving([*command, "posix", *kept, str(folder)], port, bucket) as (server, _):
        yield server


@contextmanager
def _serving(command: list[str], port: int, bucket: str) -> Iterator[tuple[S3Server, int]]:
    root = {"ROOT_ACCESS_KEY": ACCESS_KEY, "ROOT_SECRET_KEY": SECRET_KEY}
    server = S3Server(f"http://127.0.0.1:{port}", bucket)
    with child(command, server.endpoint, **root) as pid, environment(**_CREDENTIALS):
        yield server, pid


@contextmanager
def child(command: list[str], endpoint: str, **variables: str) -> Iterator[int]:
    """Run a server, with these variables in its environment, until the block ends; give its pid once it answers."""
    process = subprocess.Popen(
        command, env={**os.environ, **variables}, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        _wait(endpoint, process)
        yield process.pid
    finally:
        process.kill()  # a graceful end would wait for connections that clients keep open
        process.wait(timeout=10)


@contextmanager
def environment(**variables: str) -> Iterator[None]:
    """Set variables of this process, and set back afterwards what they were."""
    saved = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in saved.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _wait(endpoint: str, process: "subprocess.Popen[bytes]") -> None:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise ServerEndedError(process.returncode)
        try:
            urllib.request.urlopen(endpoint, timeout=1)  # noqa: S310 - our own server
        except (urllib.error.HTTPError, http.client.HTTPException, ConnectionResetError):
            return  # it is there, and perhaps speaks TLS alone
        except OSError:
            time.sleep(0.05)
        else:
            return
    raise TimeoutError(endpoint)


class ServerEndedError(Exception):
    """A server did not stay up; run its command by hand to see why."""

    def __init__(self, code: int) -> None:
        super().__init__(f"the server ended with {code}")
