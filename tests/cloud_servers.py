"""Emulators of Azure Blob Storage and Google Cloud Storage as child processes, for tests.

Azurite (Azure) does all that the engine asks for. It differs from Azure in what the tests can't show: it is one process
with everything in memory, knows no hierarchical namespaces, and here no Entra ID. Where a container is public it takes
a wrong signature for none.

fake-gcs-server (Google) can be read, listed and deleted from, but not be saved to: obstore writes through the XML API,
and of that the server has neither a plain PUT ("invalid uploadType") nor uploads in parts nor the header
`x-goog-if-generation-match`. Tests put objects there through the JSON API. It also believes every credential and every
signature, and does not say of an object in a bucket that is not there that the bucket is missing.
"""

import base64
import hashlib
import hmac
import json
import re
import subprocess
import urllib.request
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from email.utils import formatdate
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote, urlencode

from cluster.builds import npm_package, program
from cluster.processes import DIE_WITH_PARENT
from free_ports import free_port
from s3_server import child, environment

ACCOUNT: Final = "testaccount"
ACCOUNT_KEY: Final = base64.b64encode(b"the key of an account that is not").decode()
_VERSION: Final = "2021-08-06"
"""Of Azure's protocol; what is signed, and in which order, goes with it."""


@dataclass(frozen=True)
class Cloud(ABC):
    """A running server with one bucket, looked at past the engine: its objects by their whole names."""

    endpoint: str
    bucket: str = "checkpoints"

    @property
    @abstractmethod
    def options(self) -> dict[str, Any]:
        """The storage options that lead here."""

    @abstractmethod
    def url(self, path: str) -> str: ...

    @abstractmethod
    def make_bucket(self, *, public: bool = False) -> None: ...

    @abstractmethod
    def put(self, key: str, data: bytes) -> None: ...

    @abstractmethod
    def get(self, key: str) -> bytes: ...

    @abstractmethod
    def delete(self, key: str) -> None: ...

    @abstractmethod
    def keys(self, prefix: str = "") -> list[str]: ...

    def fill(self, path: str, folder: Path) -> None:
        """Put the files of a folder below a path."""
        for file in folder.rglob("*"):
            if file.is_file():
                self.put(f"{path}/{file.relative_to(folder).as_posix()}", file.read_bytes())


class Azure(Cloud):
    """Azurite."""

    @property
    def options(self) -> dict[str, Any]:
        return {"endpoint_url": f"{self.endpoint}/{ACCOUNT}", "account_name": ACCOUNT}

    def url(self, path: str) -> str:
        return f"az://{self.bucket}/{path}"

    def make_bucket(self, *, public: bool = False) -> None:
        access = {"x-ms-blob-public-access": "container"} if public else {}
        self._call("PUT", "", {"restype": "container"}, headers=access)

    def put(self, key: str, data: bytes) -> None:
        self._call("PUT", key, {}, data, {"x-ms-blob-type": "BlockBlob"})

    def get(self, key: str) -> bytes:
        return self._call("GET", key, {})

    def delete(self, key: str) -> None:
        self._call("DELETE", key, {})

    def keys(self, prefix: str = "") -> list[str]:
        query = {"restype": "container", "comp": "list", "prefix": prefix}
        return re.findall("<Name>([^<]+)</Name>", self._call("GET", "", query).decode())

    def parts(self, key: str) -> int:
        """Return of how many blocks a blob was put together; 0 for one that came in one piece."""
        return self._call("GET", key, {"comp": "blocklist"}).count(b"<Block>")

    def sas(self) -> str:
        """Return a token for the whole account, which can't sign anything itself."""
        fields = [ACCOUNT, "rwdlac", "b", "sco", "", "2099-01-01T00:00:00Z", "", "", _VERSION, "", ""]
        names = ("sp", "ss", "srt", "se", "sv")
        values = (*fields[1:4], fields[5], fields[8])
        return urlencode([*zip(names, values, strict=True), ("sig", _signed(*fields))])

    def _call(
        self,
        method: str,
        key: str,
        query: Mapping[str, str],
        data: bytes = b"",
        headers: Mapping[str, str] | None = None,
    ) -> bytes:
        """Send one request, signed with the account's key."""
        path = f"/{ACCOUNT}/{self.bucket}" + (f"/{quote(key)}" if key else "")
        ours = {"x-ms-date": formatdate(usegmt=True), "x-ms-version": _VERSION, **(headers or {})}
        kind = "application/octet-stream" if data else ""
        fields = [method, "", "", str(len(data) or ""), "", kind, "", "", "", "", "", ""]
        fields += [f"{name}:{ours[name]}" for name in sorted(ours)]
        fields += [f"/{ACCOUNT}{path}", *(f"{name}:{query[name]}" for name in sorted(query))]
        ours |= {"Authorization": f"SharedKey {ACCOUNT}:{_signed(*fields)}", "Content-Type": kind}
        return _send(f"{self.endpoint}{path}?{urlencode(query)}", method, data, ours)


class Google(Cloud):
    """fake-gcs-server."""

    @property
    def options(self) -> dict[str, Any]:
        return {"endpoint_url": self.endpoint}

    def url(self, path: str) -> str:
        return f"gs://{self.bucket}/{path}"

    def make_bucket(self, *, public: bool = False) -> None:
        del public  # everything is
        self._call("POST", "", json.dumps({"name": self.bucket}).encode())

    def put(self, key: str, data: bytes) -> None:
        query = urlencode({"uploadType": "media", "name": key})
        self._call("POST", f"/{self.bucket}/o?{query}", data, "/upload")

    def get(self, key: str) -> bytes:
        return self._call("GET", f"/{self.bucket}/o/{quote(key, safe='')}?alt=media")

    def delete(self, key: str) -> None:
        self._call("DELETE", f"/{self.bucket}/o/{quote(key, safe='')}")

    def keys(self, prefix: str = "") -> list[str]:
        found = json.loads(self._call("GET", f"/{self.bucket}/o?{urlencode({'prefix': prefix})}"))
        return [item["name"] for item in found.get("items", [])]

    def _call(self, method: str, path: str, data: bytes = b"", api: str = "") -> bytes:
        return _send(f"{self.endpoint}{api}/storage/v1/b{path}", method, data, {"Content-Type": "application/json"})


@contextmanager
def azurite() -> Iterator[Azure]:
    """Start Azurite in memory, with one container, and set its account's key in this process's environment."""
    port = free_port()
    main = npm_package("azurite") / "dist/src/blob/main.js"
    command = ["node", str(main), "--blobHost", "127.0.0.1", "--blobPort", str(port), "--inMemoryPersistence"]
    command += ["--silent", "--skipApiVersionCheck", "--disableTelemetry"]
    server = Azure(f"http://127.0.0.1:{port}")
    account = {"AZURITE_ACCOUNTS": f"{ACCOUNT}:{ACCOUNT_KEY}"}
    with environment(AZURE_STORAGE_ACCOUNT_KEY=ACCOUNT_KEY), _serving(command, server, **account):
        yield server


@contextmanager
def fake_gcs_server() -> Iterator[Google]:
    """Start fake-gcs-server in memory, with one bucket, and set a service account's key in this environment."""
    port = free_port()
    address = f"127.0.0.1:{port}"
    command = [str(program("fake-gcs-server")), "-scheme", "http", "-host", "127.0.0.1", "-port", str(port)]
    command += ["-backend", "memory", "-public-host", address, "-external-url", f"http://{address}"]
    server = Google(f"http://{address}")
    with environment(GOOGLE_SERVICE_ACCOUNT_KEY=_service_account()), _serving(command, server):
        yield server


@contextmanager
def _serving(command: list[str], server: Cloud, **environment: str) -> Iterator[None]:
    with child([*DIE_WITH_PARENT, *command], server.endpoint, **environment):
        server.make_bucket()
        yield


def _service_account() -> str:
    """Return the key file of a service account: with its own private key obstore asks nobody for tokens."""
    made = subprocess.run(["openssl", "genrsa", "2048"], check=True, capture_output=True, text=True, timeout=30)
    account = {"client_email": "test@example.invalid", "private_key_id": "1", "private_key": made.stdout}
    return json.dumps({"type": "service_account", **account})


def _signed(*fields: str) -> str:
    """Return Azure's signature of some fields."""
    text = "\n".join(fields)
    return base64.b64encode(hmac.new(base64.b64decode(ACCOUNT_KEY), text.encode(), hashlib.sha256).digest()).decode()


def _send(url: str, method: str, data: bytes, headers: Mapping[str, str]) -> bytes:
    request = urllib.request.Request(url, data or None, dict(headers), method=method)  # noqa: S310 - our own server
    with urllib.request.urlopen(request, timeout=30) as answer:  # noqa: S310
        return bytes(answer.read())
