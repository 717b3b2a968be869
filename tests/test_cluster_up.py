"""What brings a cluster up says of a machine that can't have one, and how it waits for a CRD; without a cluster."""

import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from cluster import up
from cluster.bare import MissingPackagesError, NotBuildableError, NotRootError, UnfitMachineError
from cluster.versions import missing_packages
from e2e.kube import CRDS, Kube, is_established

HERE = Path(__file__).resolve().parent


def crd(conditions: Any) -> dict[str, Any]:
    return {"status": {"conditions": conditions}}


STATES = {
    "without a status": ({}, False),
    "with an empty status": ({"status": {}}, False),
    "with null for its conditions": (crd(None), False),
    "without conditions": (crd([]), False),
    "with another condition": (crd([{"type": "NamesAccepted", "status": "True"}]), False),
    "not yet": (crd([{"type": "Established", "status": "False"}]), False),
    "established": (
        crd([{"type": "NamesAccepted", "status": "True"}, {"type": "Established", "status": "True"}]),
        True,
    ),
}


@pytest.mark.adversary
@pytest.mark.parametrize(("body", "served"), STATES.values(), ids=STATES)
def test_a_crd_is_served_once_it_says_so(body: dict[str, Any], served: object) -> None:
    assert is_established(body) is served


@dataclass(frozen=True)
class ScriptedKube(Kube):
    """A cluster that answers with each body in turn."""

    bodies: Iterator[dict[str, Any]] = field(default_factory=lambda: iter(()))

    def __call__(self, *arguments: str, objects: object = None, timeout: float = 120) -> str:
        assert arguments[0] == "apply"
        return ""

    def get(self, kind: str, name: str) -> dict[str, Any]:
        assert kind == "crd"
        assert name in CRDS
        return next(self.bodies)


@pytest.mark.adversary
def test_crds_are_waited_for_from_before_their_first_condition() -> None:
    states = [body for body, _ in STATES.values()]
    # The first one takes its time, the others are served at once.
    bodies = iter([*states, *states[-1:] * (len(CRDS) - 1)])
    ScriptedKube(Path("unused"), bodies=bodies).install_crds()
    assert next(bodies, None) is None


@pytest.mark.adversary
def test_no_test_leaves_the_wait_for_a_crd_to_kubectl() -> None:
    command = "condition=" + "Established"
    assert not [path for path in HERE.rglob("*.py") if command in path.read_text(encoding="utf-8")]


@pytest.mark.adversary
@pytest.mark.parametrize(
    ("error", "words"),
    [
        (MissingPackagesError(["etcd-server", "runc"]), "etcd-server runc"),
        (NotRootError(), "needs root"),
        (NotBuildableError("kubelet can't be built: there is no Go"), "there is no Go"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else "",
)
def test_a_machine_that_is_not_fit_gets_one_line(
    error: UnfitMachineError, words: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    class Unfit:
        def up(self) -> None:
            raise error

    monkeypatch.setattr(up, "provider", Unfit)
    monkeypatch.setenv("DCP_CACHE", str(tmp_path))  # its lock may be another command's
    with pytest.raises(SystemExit) as exit_:
        up.main()
    assert words in str(exit_.value.code)
    assert "\n" not in str(exit_.value.code)


@pytest.mark.adversary
def test_the_command_shows_no_traceback(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, HERE / "cluster" / "up.py"],
        env={"PATH": str(tmp_path), "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1, done.stderr
    assert all(word in done.stderr for word in missing_packages()), done.stderr
