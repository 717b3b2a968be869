"""One pod of an attempt: a look at the store, then the ranks, then one Report.

This process imports no torch. `supervise` starts a forkserver that does, once, and forks the ranks from it. See
`docs/decisions` for why this is not torch elastic.
"""

import os
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, TypeVar

from dcp_contract.checkpoint_info import CheckpointInfo
from dcp_contract.environment import (
    CA_ENV,
    CA_FILE_ENV,
    CA_KEY,
    CREDENTIALS_ENV,
    MASTER_ADDR_ENV,
    MASTER_PORT_ENV,
    NODE_RANK_ENV,
    PROGRESS_SECONDS_ENV,
    REPORT_LIMIT,
    REPORT_LIMIT_ENV,
    TASK_ENV,
    TERMINATION_LOG_ENV,
)
from dcp_contract.reasons import Reason
from dcp_contract.report import RankFailure, Report
from dcp_contract.storage_options import CREDENTIAL_KEYS
from dcp_contract.task import Task
from dcp_worker.launcher import pod_report
from dcp_worker.launcher.rank_processes import RankProcesses
from dcp_worker.launcher.supervisor import TICK_SECONDS, Orders, PodContext, StopAsked, Supervisor, TooLate
from dcp_worker.operations import Settled, half_of
from dcp_worker.rank.result import Warnings
from dcp_worker.training.failures import conflict_in_spec_words, in_spec_words

JOB_INDEX_ENV: Final = "JOB_COMPLETION_INDEX"
DEFAULT_PORT: Final = 29400
PREFLIGHT: Final = "preflight"
STOP_LOOK_SECONDS: Final = 5.0
"""How long the store may still be asked something once the pod has to stop."""
COMMIT_LOOK_SECONDS: Final = 20.0

_T = TypeVar("_T")


def main(environment: Mapping[str, str] | None = None, processes: RankProcesses | None = None) -> int:
    """Run this pod's part of the Task in the environment, write the Report, and return the exit code."""
    given = dict(os.environ if environment is None else environment)
    with _authorities(given):
        return _launched(given, processes or RankProcesses())


def _launched(given: Mapping[str, str], processes: RankProcesses) -> int:
    log = Path(given.get(TERMINATION_LOG_ENV, "/dev/termination-log"))
    launcher: Launcher | None = None
    try:
        launcher = Launcher(_task(given), _pod_context(given), processes)
    except ValueError as error:
        report = Report(
            failures=[_failure(Reason.INVALID_SPEC, " ".join(str(error).split())[:1000], "reading the Task")]
        )
    else:
        report = launcher.run()
    report = pod_report.redacted(report, given)
    _write(log, report, _limit(given))
    _say(report)
    code = 0 if report.result is not None else 1
    if launcher is not None and launcher.stuck:
        sys.stdout.flush()
        sys.stderr.flush()
        # An orderly end would wait for a process or a thread that nothing can end.
        os._exit(code)
    return code


@dataclass
class Launcher:
    """Runs one node's part of a Task."""

    task: Task
    pod: PodContext
    processes: RankProcesses = field(default_factory=RankProcesses)
    stuck: bool = field(default=False, init=False)
    """Whether something is left that an orderly end of this process would wait for."""
    _orders: Orders = field(default_factory=Orders, init=False)
    _warnings: Warnings = field(default_factory=Warnings, init=False)
    _deadline: float = field(init=False)

    def __post_init__(self) -> None:
        self._deadline = time.monotonic() + self.task.active_seconds

    def run(self) -> Report:
        """Return the Report of this node; never raises."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._orders.on_signal)
        report = self._looked() or self._ran()
        warnings = [*dict.fromkeys([*self._warnings.texts, *report.warnings])]
        return report.model_copy(update={"warnings": warnings, "terminated": self._orders.stop})

    def _looked(self) -> Report | None:
        """Look at the store before torch is loaded; return the Report if that settles the Task."""
        if self.pod.node:
            return None
        try:
            known = self._asked(self._preflight, self._deadline)
        except NoAnswer as error:
            if self._orders.stop:
                return None
            return Report(failures=[_failure(Reason.STORAGE_UNAVAILABLE, str(error), PREFLIGHT)])
        except Exception as error:  # noqa: BLE001 - whatever it is, it belongs into the Report
            return self._rejected(error)
        if known is not None:
            return Report(result=known.result, checkpoint=known.checkpoint)
        return Report() if self.task.probe else None

    def _preflight(self) -> Settled | None:
        """Return what settles the Task, if there is such; raise if the operation can't work."""
        _need_credentials(self.task.storage.url, self.pod.environment)
        found = self._own_commit() if self.task.probe else half_of(self.task.operation).preflight(self.task)
        return Settled(self.task.operation.traits.result, found) if isinstance(found, CheckpointInfo) else found

    def _own_commit(self) -> CheckpointInfo | None:
        """Return what is committed at the URL, if it is this very run's."""
        from dcp_engine import find  # noqa: PLC0415

        found = find(self.task.storage.url, storage_options=self.task.storage.options)
        return found if found is not None and self.task.origin.made(found.origin) else None

    def _ran(self) -> Report:
        """Run the ranks; a Save of which they could not tell the end is looked up in the store."""
        supervisor = Supervisor(self.task, self.pod, self._orders, self._deadline, self.processes)
        try:
            self._orders.check()
            report = supervisor.run()
        except StopAsked:
            report = Report(node=self.pod.node)
        except TooLate:
            late = f"torch was still loading after activeSeconds ({self.task.active_seconds} s)"
            report = Report(
                node=self.pod.node, failures=[_failure(Reason.DEADLINE_EXCEEDED, late, "starting the ranks")]
            )
        except Exception as error:  # noqa: BLE001 - as above
            message = f"{type(error).__name__}: {error}"
            report = Report(node=self.pod.node, failures=[_failure(Reason.RANK_FAILED, message, "starting the ranks")])
        self.stuck |= supervisor.stuck
        if self.pod.node == 0 and report.conflict is not None:
            return self._met(report)
        return self._settled(report) if self.pod.node == 0 and pod_report.may_be_committed(report) else report

    def _met(self, report: Report) -> Report:
        """Ask the store again where the ranks met what was committed since: it may be what settles the Task."""
        again = self._looked()
        if again is None or (again.result is None and again.conflict is None):
            return report
        update = {name: getattr(again, name) for name in ("result", "checkpoint", "conflict", "failures")}
        return report.model_copy(update=update)

    def _settled(self, report: Report) -> Report:
        """Look into the store for a commit that the ranks did not live to report."""
        try:
            found = self._asked(self._own_commit, time.monotonic() + COMMIT_LOOK_SECONDS)
        except Exception:  # noqa: BLE001 - the ranks' own failures say more
            return report
        return report if found is None else pod_report.committed(report, found, self.task.operation)

    def _asked(self, question: Callable[[], _T], deadline: float) -> _T:
        """Ask the store, in a thread that is left behind if no answer comes: a dead mount answers to no signal."""
        answers: list[_T] = []
        errors: list[Exception] = []

        def ask() -> None:
            try:
                answers.append(question())
            except Exception as error:  # noqa: BLE001 - raised below
                errors.append(error)

        asking = threading.Thread(target=ask, daemon=True)
        asking.start()
        while asking.is_alive() and time.monotonic() < deadline:
            asking.join(TICK_SECONDS)
            if self._orders.stop:
                deadline = min(deadline, time.monotonic() + STOP_LOOK_SECONDS)
        if errors:
            raise errors[0]
        if not answers:
            self.stuck = True
            raise NoAnswer(self.task.storage.url)
        return answers[0]

    def _rejected(self, error: Exception) -> Report:
        from dcp_engine.translate import translate  # noqa: PLC0415

        known = translate(error, url=self.task.storage.url)
        failure = _failure(known.reason, in_spec_words(known.message), PREFLIGHT)
        return Report(failures=[failure], conflict=known.conflict and conflict_in_spec_words(known.conflict))


class NoAnswer(Exception):
    """The store did not answer within the time of the attempt."""

    def __init__(self, url: str) -> None:
        super().__init__(f"{url}: the store does not answer")


@contextmanager
def _authorities(environment: dict[str, str]) -> Iterator[None]:
    """Lay the Secret's authorities out as a file, which is how every library takes them, in place of any others."""
    authorities = environment.pop(CA_ENV, "")
    if not authorities:
        yield
        return
    with tempfile.NamedTemporaryFile("w", prefix="dcp-ca-", suffix=".crt") as file:
        file.write(authorities)
        file.flush()
        # For the ranks, and for this process's own looks at the store.
        environment[CA_FILE_ENV] = os.environ[CA_FILE_ENV] = file.name
        yield


def _need_credentials(url: str, environment: Mapping[str, str]) -> None:
    """Raise where the pod's Secret gave it nothing: Kubernetes starts it all the same, since each key is optional."""
    from dcp_engine.errors import StorageDenied  # noqa: PLC0415

    name, keys = environment.get(CREDENTIALS_ENV), CREDENTIAL_KEYS.get(url.partition("://")[0], ())
    if name and not any(environment.get(key) for key in (*keys, CA_FILE_ENV)):
        raise StorageDenied(f"Secret {name} is not there, or holds none of {', '.join((*keys, CA_KEY))}")


def _task(environment: Mapping[str, str]) -> Task:
    if TASK_ENV not in environment:
        raise ValueError(
            f"{TASK_ENV} is not set: the operator or `dcp run` starts this. By hand, there are `python -m dcp_worker "
            "inspect URL` and `verify URL`."
        )
    try:
        return Task.decode(environment[TASK_ENV])
    except ValueError as error:
        raise ValueError(f"{TASK_ENV}: {error}") from error


def _pod_context(environment: Mapping[str, str]) -> PodContext:
    return PodContext(
        node=int(environment.get(NODE_RANK_ENV) or environment.get(JOB_INDEX_ENV) or 0),
        master_addr=environment.get(MASTER_ADDR_ENV, "127.0.0.1"),
        master_port=int(environment.get(MASTER_PORT_ENV) or DEFAULT_PORT),
        progress_seconds=float(environment.get(PROGRESS_SECONDS_ENV) or 5),
        environment=environment,
    )


def _failure(reason: Reason, message: str, stage: str) -> RankFailure:
    return RankFailure(reason=reason, message=message, stage=stage, time=time.time())


def _limit(environment: Mapping[str, str]) -> int:
    """Return how long the Report may be; a value that makes no sense must not cost the Report."""
    given = environment.get(REPORT_LIMIT_ENV, "")
    return min(REPORT_LIMIT, int(given)) if given.isdecimal() and int(given) else REPORT_LIMIT


def _write(log: Path, report: Report, limit: int) -> None:
    """Write the Report in one go, in place: the kubelet has mounted the file."""
    try:
        log.write_text(report.encode(limit), encoding="utf-8")
    except OSError as error:
        print(f"can't write the Report to {log}: {error}", file=sys.stderr)  # noqa: T201


def _say(report: Report) -> None:
    """Print what went wrong, for whoever reads the pod's log."""
    for failure in report.failures:
        who = "launcher" if failure.rank is None else f"rank {failure.rank}"
        print(f"{who}: {failure.reason} ({failure.stage}): {failure.message}", file=sys.stderr)  # noqa: T201
        if failure.traceback:
            print(failure.traceback, file=sys.stderr)  # noqa: T201
