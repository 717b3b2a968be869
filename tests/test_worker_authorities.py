"""A store whose certificate only the Secret's `ca.crt` vouches for: what launcher and ranks make of it."""

import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

import versitygw
from dcp_contract.environment import CA_ENV
from dcp_contract.operations import Operation
from dcp_contract.reasons import Reason
from s3_server import S3Server
from worker_process import ran_anew, ran_here, task

pytestmark = pytest.mark.tier("pods")


@dataclass(frozen=True)
class Authority:
    """Who vouches for the server at 127.0.0.1."""

    folder: Path

    def openssl(self, *arguments: str) -> None:
        subprocess.run(["openssl", *arguments], cwd=self.folder, check=True, capture_output=True, timeout=30)

    def make(self) -> None:
        key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-noenc")
        self.openssl("req", "-x509", *key, "-keyout", "ca.key", "-out", "ca.crt", "-subj", "/CN=authority")
        self.openssl("req", *key, "-keyout", "server.key", "-out", "server.csr", "-subj", "/CN=server")
        (self.folder / "names").write_text("subjectAltName=IP:127.0.0.1\n")
        signed = ("-CA", "ca.crt", "-CAkey", "ca.key", "-CAcreateserial", "-extfile", "names")
        self.openssl("x509", "-req", "-in", "server.csr", *signed, "-out", "server.crt")

    @property
    def certificate(self) -> str:
        return (self.folder / "ca.crt").read_text()


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    made = Authority(tmp_path_factory.mktemp("authority"))
    made.make()
    return made


@pytest.fixture(scope="module")
def s3(authority: Authority) -> Iterator[S3Server]:
    keys = ("--cert", str(authority.folder / "server.crt"), "--key", str(authority.folder / "server.key"))
    with versitygw.running(more_flags=keys) as gateway:
        yield S3Server(gateway.server.endpoint.replace("http:", "https:"), gateway.server.bucket)


def test_the_secrets_authority_is_trusted_by_launcher_and_ranks(
    s3: S3Server, authority: Authority, tmp_path: Path
) -> None:
    url, trusted = s3.url("trusted"), {CA_ENV: authority.certificate}
    saved = ran_here(task(url, ranks=2, options=s3.options), tmp_path / "save", **trusted)
    assert saved.result is Reason.SAVED, saved.failures
    loaded = ran_here(task(url, operation=Operation.LOAD, options=s3.options), tmp_path / "load", **trusted)
    assert loaded.result is Reason.LOADED, loaded.failures


@pytest.mark.adversary
def test_a_store_that_nobody_vouches_for_is_not_believed(s3: S3Server, tmp_path: Path) -> None:
    options = s3.options | {"max_attempts": 1}
    report = ran_anew(task(s3.url("stranger"), options=options), tmp_path / "save")
    assert report.result is None
    assert report.failures[0].reason is Reason.STORAGE_UNAVAILABLE
    assert "certificate" in report.failures[0].message.lower()
