"""Long-running programs, recorded on disk so that a later command ends exactly those and no other."""

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

WAIT_SECONDS = 60.0
DIE_WITH_PARENT = ("setpriv", "--pdeathsig", "KILL")
"""Before a command: it must not outlive a test run that was killed."""
_LISTENING = "0A"  # TCP_LISTEN of include/net/tcp_states.h


class NotReadyError(Exception):
    """A program did not come up in time, or died; its log's last lines say why."""

    def __init__(self, what: str, log: Path | None = None) -> None:
        tail = log.read_text(errors="replace")[-3000:] if log and log.exists() else ""
        super().__init__(f"{what} did not become ready; {log or 'see the logs of the run folder'} ends with:\n{tail}")


@dataclass(frozen=True)
class Process:
    """One started program. A process id that went to somebody else is told by its start time."""

    name: str
    pid: int
    start_ticks: int
    command: list[str]
    environment: dict[str, str] = field(default_factory=dict)

    def alive(self) -> bool:
        """Return whether it still runs."""
        return _start_ticks(self.pid) == self.start_ticks

    def listens(self, port: int) -> bool:
        """Return whether somebody listens on that port in the program's network, which may not be this one's."""
        rows = [line.split() for line in Path(f"/proc/{self.pid}/net/tcp").read_text().splitlines()[1:]]
        return any(row[1].endswith(f":{port:04X}") and row[3] == _LISTENING for row in rows)

    def send(self, number: signal.Signals) -> None:
        """Send it a signal; does nothing where it has ended."""
        try:
            handle = os.pidfd_open(self.pid)
        except ProcessLookupError:
            return
        try:
            # The handle is taken before the check, so that it can't come to mean another process in between.
            if self.alive():
                signal.pidfd_send_signal(handle, number)
        except ProcessLookupError:
            pass
        finally:
            os.close(handle)

    def end(self, seconds: float = 10) -> None:
        """Ask it to end, insist after `seconds`, and return once it is gone."""
        self.send(signal.SIGCONT)
        self.send(signal.SIGTERM)
        try:
            until(lambda: not self.alive(), self.name, seconds=seconds)
        except NotReadyError:
            self.send(signal.SIGKILL)
            until(lambda: not self.alive(), f"the end of {self.name}", seconds=seconds)
        with suppress(ChildProcessError):
            # Our own child stays in the process table until somebody asks how it ended.
            os.waitpid(self.pid, os.WNOHANG)


class Processes:
    """The programs of one run folder.

    `enter` is a command prefix that puts them into namespaces; `forks` says that the program is then its only child.
    """

    def __init__(self, folder: Path, enter: Sequence[str] = (), *, forks: bool = False) -> None:
        self.logs = folder / "logs"
        self._records = folder / "processes"
        self._enter = list(enter)
        self._forks = forks

    def start(self, name: str, command: Sequence[str | Path], environment: Mapping[str, str] | None = None) -> Process:
        """Start a program in the background, its output in logs/<name>.log, and record it."""
        self.logs.mkdir(parents=True, exist_ok=True)
        self._records.mkdir(parents=True, exist_ok=True)
        arguments = [str(part) for part in command]
        pid = _spawn([*self._enter, *arguments], self.log(name), {**os.environ, **(environment or {})})
        if self._forks:
            pid = _only_child(pid, self.log(name))
        process = Process(name, pid, _start_ticks(pid) or 0, arguments, dict(environment or {}))
        (self._records / f"{name}.json").write_text(json.dumps(asdict(process)))
        return process

    def restart(self, name: str) -> Process:
        """Start a recorded program again with the same command; the caller has ended it."""
        process = self.get(name)
        return self.start(name, process.command, process.environment)

    def get(self, name: str) -> Process:
        """Return the recorded program of that name; KeyError where none was started."""
        path = self._records / f"{name}.json"
        if not path.exists():
            raise KeyError(name)
        return Process(**json.loads(path.read_text()))

    def all(self) -> list[Process]:
        """Return every recorded program, the latest started first."""
        paths = sorted(self._records.glob("*.json"), key=lambda path: path.stat().st_mtime_ns, reverse=True)
        return [Process(**json.loads(path.read_text())) for path in paths]

    def end_all(self) -> None:
        """End every recorded program, the latest started first."""
        for process in self.all():
            process.end()

    def log(self, name: str) -> Path:
        """Return where a program's output goes."""
        return self.logs / f"{name}.log"

    def wait(self, name: str, ready: Callable[[], bool], seconds: float = WAIT_SECONDS) -> None:
        """Wait until `ready` says yes; NotReadyError with the log's end where the program dies or takes too long."""
        process = self.get(name)

        def ready_or_dead() -> bool:
            if not process.alive():
                raise NotReadyError(name, self.log(name))
            return ready()

        until(ready_or_dead, name, self.log(name), seconds)


def until(ready: Callable[[], bool], what: str, log: Path | None = None, seconds: float = WAIT_SECONDS) -> None:
    """Poll until `ready` returns True; NotReadyError after `seconds`."""
    deadline = time.monotonic() + seconds
    while not ready():
        if time.monotonic() > deadline:
            raise NotReadyError(what, log)
        time.sleep(0.05)


def run(command: Sequence[str | Path], *, stdin: str | None = None, timeout: float = 600) -> str:
    """Run a short command and return its output; CommandError with what it wrote where it fails."""
    arguments = [str(part) for part in command]
    done = subprocess.run(arguments, input=stdin, capture_output=True, text=True, timeout=timeout, check=False)
    if done.returncode:
        raise CommandError(arguments, done.returncode, done.stdout + done.stderr)
    return done.stdout


class CommandError(Exception):
    """A short command failed; `output` is all that it wrote."""

    def __init__(self, command: Sequence[str], code: int, output: str) -> None:
        self.output = output
        super().__init__(f"{' '.join(command)} ended with {code}:\n{output[-3000:]}")


def _start_ticks(pid: int) -> int | None:
    """Return when the process started, in clock ticks since boot; None for none and for a zombie."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    # The command's name, in brackets, may hold spaces.
    fields = stat.rpartition(")")[2].split()
    return None if fields[0] in "ZX" else int(fields[19])


def _spawn(command: list[str], log: Path, environment: Mapping[str, str]) -> int:
    """Start a program in a session of its own, so that it outlives this one, and return its process id."""
    output = os.O_WRONLY | os.O_CREAT | os.O_APPEND
    actions: list[tuple[Any, ...]] = [
        (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
        (os.POSIX_SPAWN_OPEN, 1, str(log), output, 0o600),
        (os.POSIX_SPAWN_DUP2, 1, 2),
    ]
    return os.posix_spawnp(command[0], command, environment, file_actions=actions, setsid=True)


def _only_child(pid: int, log: Path) -> int:
    """Return the process id of the program itself: entering a process namespace takes a fork.

    What entered would wait for its child, stop when that is stopped, and keep a dead one in the process table. It is
    ended here, so that the namespace's first process takes the program over and buries it.
    """
    children = Path(f"/proc/{pid}/task/{pid}/children")
    found: list[str] = []

    def forked() -> bool:
        if _start_ticks(pid) is None:
            raise NotReadyError(f"process {pid}", log)
        found[:] = children.read_text().split()
        return bool(found)

    until(forked, "the program's fork", log, seconds=10)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return int(found[0])
