"""`dcp run`: Checkpoints on this machine, one after the other.

What `local` observes goes through the operator's own code: the same decisions, the same retries, the same status.
"""

import os
import queue
import signal
import sys
import tempfile
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from types import FrameType
from typing import Any, Final

from dcp_contract.checkpoint_info import LoadSummary
from dcp_contract.environment import WORKLOAD_PATH_ENV
from dcp_contract.reasons import Reason
from dcp_contract.storage_options import CREDENTIAL_KEYS
from dcp_operator.api.checkpoint.parsing import parse
from dcp_operator.api.checkpoint.spec import Checkpoint
from dcp_operator.api.checkpoint.status import Phase
from dcp_operator.api.site import LOCAL
from dcp_operator.api.storage_url import protocol
from dcp_operator.controllers.checkpoint.actions import CheckpointDecision
from dcp_operator.controllers.checkpoint.decide import decide
from dcp_operator.controllers.checkpoint.observed import Observed
from dcp_operator.local.documents import Documents, ManifestCheckpoint, authorities, credentials
from dcp_operator.local.machine import Machine, now
from dcp_operator.local.view import View

STOPS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""Ctrl-C, a polite kill, and a closed terminal."""


@dataclass
class Run:
    """One `dcp run`: what its Checkpoints share."""

    found: Documents
    shown: View
    verbose: bool
    folder: Path
    news: "queue.SimpleQueue[None]" = field(default_factory=queue.SimpleQueue)
    signals: list[signal.Signals] = field(default_factory=list)
    """Those that asked this program to stop, in their order."""
    machine: Machine | None = None

    def on_signal(self, number: int, frame: FrameType | None) -> None:
        """Suspend on the first Ctrl-C, kill on the second; runs between two instructions of the main thread."""
        del frame
        self.signals.append(signal.Signals(number))
        if len(self.signals) > 1 and self.machine is not None:
            self.machine.kill()
        self.news.put(None)

    def one(self, source: ManifestCheckpoint) -> dict[str, Any]:
        """Run one Checkpoint to its end; return the object with its status."""
        body = _admitted(source.body)
        checkpoint = replace(parse(self.found.stores.resolved(body), site=LOCAL), queue="")
        if checkpoint.store is not None:
            # No file changes while this runs: there is nothing to write down first.
            checkpoint = replace(checkpoint, store=checkpoint.store.model_copy(update={"settled": True}))
        self.machine = machine = Machine(
            environment=self.environment(source, checkpoint),
            folder=Path(tempfile.mkdtemp(dir=self.folder)),
            changed=lambda: self.news.put(None),
            output=lambda node, line: self._output(checkpoint, node, line),
        )
        try:
            status = self._until_ended(checkpoint, machine)
        finally:
            machine.kill()
        if status["phase"] == Phase.SUSPENDED:
            body["spec"] = {**body["spec"], "suspend": True}
        return {**body, "status": status}

    def _until_ended(self, checkpoint: Checkpoint, machine: Machine) -> dict[str, Any]:
        """Observe, decide and act until nothing is left to do; return the status."""
        status: dict[str, Any] = {}
        while True:
            if self.signals:
                return self._stopped(checkpoint, machine, status)
            observed = machine.observe()
            decision = decide(checkpoint, observed, status, now())
            status = decision.status
            self._show(checkpoint, machine, observed, decision)
            for action in decision.actions:
                machine.carry_out(action)
            if not decision.actions and not machine.live and _ended(status):
                return status
            self._wait(decision.wake_at)

    def _stopped(self, checkpoint: Checkpoint, machine: Machine, status: Mapping[str, Any]) -> dict[str, Any]:
        """Stop the ranks and suspend the Checkpoint, unless the result is there by now; return the status."""
        if machine.live:
            self.shown.say(f"{checkpoint.name}: stopping the ranks; Ctrl-C once more kills them")
        machine.stop()
        while machine.live:
            self._wait(None)
        observed = machine.observe()
        decision = decide(checkpoint, observed, status, now())
        if decision.status["phase"] not in {Phase.SUCCEEDED, Phase.CONFLICT}:
            machine.forget()
            suspended = _suspended(checkpoint)
            decision = decide(suspended, machine.observe(), status, now())
            decision = replace(decision, status=_stopped_by(self.signals[0], decision.status))
        self._show(checkpoint, machine, observed, decision)
        return decision.status

    def _wait(self, until: datetime | None) -> None:
        """Wait for news; a burst of it counts as one."""
        try:
            self.news.get(timeout=None if until is None else max(0.0, (until - now()).total_seconds()))
            while True:
                self.news.get_nowait()
        except queue.Empty:
            pass

    def _show(self, checkpoint: Checkpoint, machine: Machine, observed: Observed, decision: CheckpointDecision) -> None:
        progress = observed.attempts[-1].progress if observed.attempts else None
        phase = Phase(decision.status["phase"])
        self.shown.show(checkpoint.name, phase, progress, checkpoint.spec.workers.world_size)
        if phase.terminal:
            for line in _asides(decision.status):
                self.shown.say(f"{checkpoint.name}: {line}")
        for event in decision.events:
            if event.type == "Warning":
                self.shown.say(f"{checkpoint.name}: {event.reason}: {event.message}")
                if event.reason != Reason.OVERWRITE_CONFLICT and not self.verbose:
                    for node, line in machine.failed_lines():
                        self.shown.say(_line(checkpoint, node, line))

    def _output(self, checkpoint: Checkpoint, node: int, line: str) -> None:
        if self.verbose:
            self.shown.say(_line(checkpoint, node, line))

    def environment(self, source: ManifestCheckpoint, checkpoint: Checkpoint) -> dict[str, str]:
        """Return what the processes of a Checkpoint get: this environment, the entrypoint's folders, credentials."""
        environment = {**os.environ, WORKLOAD_PATH_ENV: os.pathsep.join([str(Path.cwd()), str(source.folder)])}
        if sys.platform == "linux":
            # Ranks of one machine meet on its loopback interface; its host name need not even resolve.
            environment.setdefault("GLOO_SOCKET_IFNAME", "lo")
        reference = checkpoint.spec.storage.credentials_secret_ref
        secret = credentials(checkpoint, self.found.secrets)
        if secret is not None:
            for key in CREDENTIAL_KEYS[protocol(checkpoint.spec.storage.url)]:
                environment.pop(key, None)
            environment |= secret
        elif reference is not None:
            name = f"Secret {checkpoint.namespace}/{reference.name}"
            self.shown.say(f"{checkpoint.name}: {name} is in none of the files; using the environment's credentials")
        return environment | authorities(checkpoint, self.found.secrets)


def run_all(found: Documents, shown: View, *, verbose: bool) -> tuple[list[dict[str, Any]], signal.Signals | None]:
    """Run the Checkpoints in order; return the objects with their status, and the signal that stopped them.

    After a Ctrl-C the remaining ones are not started: their status says Suspended as well.
    """
    with tempfile.TemporaryDirectory(prefix="dcp-run-") as folder:
        run = Run(found, shown, verbose, Path(folder))
        with _handled(run.on_signal):
            finished = [run.one(source) for source in found.checkpoints]
        return finished, run.signals[0] if run.signals else None


@contextmanager
def _handled(handler: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    """Have the signals that ask a program to stop call the handler for as long as the block runs."""
    before = {number: signal.signal(number, handler) for number in STOPS}
    try:
        yield
    finally:
        for number, old in before.items():
            signal.signal(number, old)


def _admitted(body: Mapping[str, Any]) -> dict[str, Any]:
    """Return the object as an API server would hand it out: with an identity of its own, and no status yet."""
    metadata = {
        "namespace": "default",
        **body["metadata"],
        "uid": str(uuid.uuid4()),
        "generation": 1,
        "creationTimestamp": now().isoformat(timespec="seconds"),
    }
    return {**{key: value for key, value in body.items() if key != "status"}, "metadata": metadata}


def _suspended(checkpoint: Checkpoint) -> Checkpoint:
    return replace(checkpoint, spec=checkpoint.spec.model_copy(update={"suspend": True}))


def _stopped_by(number: signal.Signals, status: Mapping[str, Any]) -> dict[str, Any]:
    """Return the status of a Checkpoint that a signal to this program suspended, and not its author."""
    stopped = f"{number.name} stopped this run, as suspend: true would"
    conditions = [
        {**each, "message": each["message"].replace("spec.suspend is true", stopped)} for each in status["conditions"]
    ]
    return {**status, "conditions": conditions}


def _ended(status: Mapping[str, Any]) -> bool:
    phase = Phase(status["phase"])
    return phase.terminal or phase is Phase.SUSPENDED


def _asides(status: Mapping[str, Any]) -> Iterator[str]:
    """Yield what is to be known of a result beside the result itself."""
    entries = LoadSummary.model_validate((status.get("checkpoint") or {}).get("entries") or {})
    if entries.left_out or entries.converted:
        yield f"entries: {status['entries']}"
    for warning in status.get("warnings", ()):
        yield f"warning: {warning}"


def _line(checkpoint: Checkpoint, node: int, line: str) -> str:
    place = f"{checkpoint.name}/{node}" if checkpoint.spec.workers.num_nodes > 1 else checkpoint.name
    return f"[{place}] {line}"


def succeeded(body: Mapping[str, Any]) -> bool:
    """Return whether a finished object's operation did what it says."""
    return bool(body["status"]["phase"] == Phase.SUCCEEDED)
