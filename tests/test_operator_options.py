"""The operator's options are checked before it does anything: a wrong one must not become everybody's refusal."""

from typing import Any

import pytest
from typer.testing import CliRunner

from dcp_operator import __main__ as main
from dcp_operator.api.storage_url import DEFAULT_PROTOCOLS
from dcp_operator.kube.process.settings import Settings


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[Settings]:
    """The settings of every operator that was started."""
    found: list[Settings] = []

    async def run(settings: Settings) -> None:
        found.append(settings)

    monkeypatch.setattr(main, "run", run)
    for name in ("gc.freeze", "gc.set_threshold"):
        monkeypatch.setattr(name, lambda *_: None)
    return found


def invoke(*arguments: str, **variables: str) -> Any:
    return CliRunner().invoke(main.app, arguments, env={"DCP_WORKER_IMAGE": "worker"} | variables)


@pytest.mark.parametrize("written", ["s3,gs", "s3 gs", "s3, gs", " s3\ngs,", "s3,gs,s3"])
def test_lists_are_parted_by_blanks_and_commas(started: list[Settings], written: str) -> None:
    assert invoke(DCP_PROTOCOLS=written).exit_code == 0
    assert invoke("--protocol", written).exit_code == 0
    assert {each.protocols for each in started} == {("s3", "gs")}


def test_what_is_not_said_is_the_default(started: list[Settings]) -> None:
    assert invoke(DCP_PROTOCOLS="", DCP_NAMESPACES="").exit_code == 0
    (found,) = started
    assert (found.protocols, found.namespaces, found.lease_namespace, found.workers) == ((), (), "default", 32)
    assert invoke("--protocol", "s3", "--protocol", "gs", "--namespace", "a", "--namespace", "b,c").exit_code == 0
    assert (started[-1].protocols, started[-1].namespaces) == (("s3", "gs"), ("a", "b", "c"))


@pytest.mark.adversary
@pytest.mark.parametrize(
    ("variables", "says"),
    [
        pytest.param({"DCP_PROTOCOLS": "s3;gs"}, "'s3;gs' is no protocol", id="another separator"),
        pytest.param({"DCP_PROTOCOLS": "s3a"}, "'s3a' is no protocol; write s3", id="an almost"),
        pytest.param({"DCP_PROTOCOLS": "S3"}, "'S3' is no protocol; write s3", id="a capital"),
        pytest.param({"DCP_PROTOCOLS": "s3://"}, "'s3://' is no protocol; write s3", id="a URL"),
        pytest.param({"DCP_PROTOCOLS": "memory"}, f"write {' '.join(DEFAULT_PROTOCOLS)}", id="none for a cluster"),
        pytest.param({"DCP_NAMESPACES": "team_a"}, "'team_a' is no name of a namespace", id="no name"),
        pytest.param({"DCP_NAMESPACES": "*"}, "'*' is no name of a namespace", id="a wildcard"),
        pytest.param({"DCP_LEASE_NAMESPACE": "A"}, "'A' is no name of a namespace", id="where the Lease is"),
        pytest.param({"DCP_WORKER_IMAGE": " "}, "' ' is no image", id="no image"),
        pytest.param({"DCP_WORKER_IMAGE": "a b"}, "'a b' is no image", id="two images"),
        pytest.param({"DCP_WORKERS": "0"}, "greater than or equal to 1", id="no workers"),
        pytest.param({"DCP_WORKERS": "many"}, "unable to parse string as an integer", id="workers in words"),
        pytest.param({"DCP_PORT": "70000"}, "less than or equal to 65535", id="a port that is none"),
        pytest.param({"DCP_PORT": "-1"}, "greater than or equal to 0", id="a negative port"),
        pytest.param({"DCP_ELECT": "perhaps"}, "unable to interpret input", id="neither yes nor no"),
    ],
)
def test_what_can_not_be_meant_ends_the_process(started: list[Settings], variables: dict[str, str], says: str) -> None:
    """O S1-3: `s3,gs` was taken for one protocol, and every Checkpoint of the cluster was refused."""
    found = invoke(**variables)
    assert (found.exit_code, started) == (2, [])
    text = " ".join(found.output.replace("│", " ").split())
    assert says in text
    assert "Invalid value for" in text
