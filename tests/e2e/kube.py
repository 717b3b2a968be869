"""kubectl as a user types it, and waiting for what it would show."""

import json
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

from cluster.builds import programs
from cluster.controlplane import api_server
from cluster.places import TREE
from e2e.reading import read

Body = dict[str, Any]
PAUSE = 0.2
ACCOUNT: Final[Body] = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default"}}
"""That of a namespace's pods, where no controller makes it."""
CRDS: Final = ("checkpoints.dcp-operator.io", "checkpointseries.dcp-operator.io", "checkpointstores.dcp-operator.io")


class KubectlError(Exception):
    """kubectl ended with an error."""

    def __init__(self, arguments: tuple[str, ...], output: str) -> None:
        super().__init__(f"kubectl {' '.join(arguments)}: {output}")
        self.output = output


TERMINAL: Final = frozenset({"Succeeded", "Conflict", "Failed"})


class EndedOtherwiseError(AssertionError):
    """A Checkpoint ended, and not as the test expects: there is nothing left to wait for."""

    def __init__(self, name: str, wanted: tuple[str, ...], status: Body) -> None:
        super().__init__(f"Checkpoint {name} ended in {status['phase']}, not in {' or '.join(wanted)}: {status}")


class NeverError(Exception):
    """What was waited for did not happen; `last` is what was seen instead."""

    def __init__(self, what: str, seconds: float, last: object) -> None:
        super().__init__(f"{what} did not happen within {seconds:.0f} s; last seen: {last}")


@dataclass(frozen=True)
class Kube:
    """kubectl with one kubeconfig, in one namespace if any is named."""

    kubeconfig: Path
    namespace: str = ""

    def __call__(self, *arguments: str, objects: object = None, timeout: float = 120) -> str:
        """Run kubectl; `objects` go to its standard input, as text or as JSON."""
        binary = str(programs(["kubectl"])["kubectl"])
        where = ["--namespace", self.namespace] if self.namespace else []
        command = [binary, "--kubeconfig", str(self.kubeconfig), *where, *arguments]
        text = objects if isinstance(objects, str) or objects is None else json.dumps(objects)
        done = subprocess.run(command, input=text, capture_output=True, text=True, timeout=timeout, check=False)
        if done.returncode:
            raise KubectlError(arguments, done.stderr + done.stdout)
        return done.stdout

    def apply(self, *objects: Body) -> None:
        """Apply objects."""
        listed = {"apiVersion": "v1", "kind": "List", "items": list(objects)}
        self("apply", "-f", "-", objects=listed)

    def install_crds(self) -> None:
        """Apply the CRDs, and return when the API server serves them.

        Right after it is created a CRD has `conditions: null`, which `kubectl wait --for=condition` takes for an error.
        """
        self("apply", "-k", str(TREE / "manifests/crds"))
        for crd in CRDS:
            until(partial(self.get, "crd", crd), is_established, f"establishment of {crd}", 60)

    def get(self, kind: str, name: str) -> Body:
        """Return one object."""
        found: Body = read(self.kubeconfig, self.namespace, kind, name)
        return found

    def every(self, kind: str, selector: str = "") -> list[Body]:
        """Return the objects of a kind."""
        items: list[Body] = read(self.kubeconfig, self.namespace, kind, labelSelector=selector)["items"]
        return items

    def log(self, pod: str, *options: str) -> str:
        """Return what a pod has printed; nothing while its container waits to start.

        The kubelet says so for a moment after the container has begun to run.
        """
        try:
            return self("logs", pod, "--tail=-1", *options)
        except KubectlError as error:
            if "is waiting to start" in error.output:
                return ""
            raise

    def status(self, name: str) -> Body:
        """Return a Checkpoint's status."""
        found: Body = self.get("checkpoint", name).get("status") or {}
        return found

    def until_status(self, name: str, true: Callable[[Body], object], seconds: float = 90) -> Body:
        """Wait until a Checkpoint's status is as wanted, and return it."""
        found: Body = until(lambda: self.status(name), true, f"Checkpoint {name}", seconds)
        return found

    def until_phase(self, name: str, *phases: str, seconds: float = 90) -> Body:
        """Wait until a Checkpoint is in one of the phases and return its status; stop at once if it ends in another."""

        def reached(found: Body) -> bool:
            status = found.get("status") or {}
            phase = status.get("phase")
            # The end of an earlier run stands there until the operator has seen the new generation.
            current = status.get("observedGeneration") == found["metadata"]["generation"]
            if phase in TERMINAL and phase not in phases and current:
                raise EndedOtherwiseError(name, phases, status)
            return phase in phases

        found: Body = until(lambda: self.get("checkpoint", name), reached, f"Checkpoint {name}", seconds)
        status: Body = found["status"]
        return status

    def events(self, name: str) -> list[Body]:
        """Return the events about a Checkpoint, oldest first."""
        field = f"involvedObject.name={name},involvedObject.kind=Checkpoint"
        items: list[Body] = read(self.kubeconfig, self.namespace, "events", fieldSelector=field)["items"]
        return sorted(items, key=lambda event: str(event["firstTimestamp"]))

    def heard(self, name: str, reason: str) -> list[Body]:
        """Wait until there is an event of that reason about a Checkpoint; return all about it. Events come late."""

        def named(events: list[Body]) -> bool:
            return any(each["reason"] == reason for each in events)

        events: list[Body] = until(lambda: self.events(name), named, f"event {reason} of {name}", 20)
        assert all(len(each["message"]) <= 1024 for each in events)
        return events

    def within(self, namespace: str) -> "Kube":
        """Return the same in another namespace."""
        return Kube(self.kubeconfig, namespace)


@contextmanager
def api_alone() -> Iterator[Kube]:
    """Run an API server without controllers, with our CRDs; yield kubectl in `default`, where pods have an account."""
    with api_server(controllers=False) as plane:
        cluster = Kube(plane.kubeconfig())
        cluster.install_crds()
        kube = cluster.within("default")
        kube.apply(ACCOUNT)
        yield kube


def until(look: Callable[[], Any], true: Callable[[Any], object], what: str, seconds: float = 90) -> Any:
    """Look again and again until what is seen is true, and return it."""
    deadline = time.monotonic() + seconds
    while True:
        seen = look()
        if true(seen):
            return seen
        if time.monotonic() > deadline:
            raise NeverError(what, seconds, seen)
        time.sleep(PAUSE)


def rolled_out(operator: Kube) -> None:
    """Wait until the operator that is installed runs as it was last changed."""
    operator("rollout", "status", "deployment/dcp-operator", "--timeout=120s")


def condition(status: Body, kind: str) -> Body:
    """Return a condition of a status; {} where it has none yet, or null for all of them."""
    return next((each for each in status.get("conditions") or () if each["type"] == kind), {})


def is_established(crd: Body) -> bool:
    """Tell whether the API server serves the kind that a CRD defines."""
    return condition(crd.get("status") or {}, "Established").get("status") == "True"
