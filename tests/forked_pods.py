"""Launchers and `dcp run` without an import of torch each: forked from one process that has torch loaded.

`python -m dcp_worker` starts a server that loads torch for its ranks: 8 s of a processor for each pod. Here the server
of `rank_processes` has it loaded. A launcher is forked from that server and forks its ranks by itself; the kernel ends
them with it (PR_SET_PDEATHSIG), as in a pod. All else is what
`python -m dcp_worker` does, in a session of its own. For file:// alone: a launcher that has asked an object store has
threads, which no fork takes along; the engine refuses that. Those tests start pods anew.
"""

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

from rank_processes import CONTEXT


class Forked:
    """A forked launcher, with what tests use of a Popen."""

    def __init__(self, environment: Mapping[str, str], log: Path) -> None:
        self._start(_launched, dict(environment), str(log))

    def _start(self, program: Any, *arguments: Any) -> None:
        self._process = CONTEXT.Process(target=program, args=arguments)
        self._process.start()
        self.pid = self._process.pid or 0

    @property
    def returncode(self) -> int:
        """The exit code; of a process that has ended."""
        assert self._process.exitcode is not None
        return self._process.exitcode

    def poll(self) -> int | None:
        return self._process.exitcode

    def wait(self, timeout: float | None = None) -> int:
        self._process.join(timeout)
        if self._process.exitcode is None:
            raise subprocess.TimeoutExpired("a forked process", timeout or 0)
        return self._process.exitcode

    def send_signal(self, number: signal.Signals) -> None:
        if self._process.exitcode is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


class ForkedRun(Forked):
    """A forked `dcp run`, whose launchers are forked too. Its output goes to files of a folder."""

    def __init__(self, arguments: list[str], standard_input: str, folder: Path, working: Path) -> None:
        self._files = [folder / "out", folder / "err"]
        (folder / "in").write_text(standard_input)
        self._start(_run, arguments, str(folder), str(working), dict(os.environ))

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        self.wait(timeout)
        out, err = (path.read_text() for path in self._files)
        return out, err


class Popen:
    """A launcher that `Launchers` forked, with what `dcp_operator.local.processes` uses of a Popen."""

    def __init__(self, answers: socket.socket, output: int) -> None:
        self._answers = answers.makefile()
        self.pid = int(self._answers.readline())
        self.stdout = os.fdopen(output, errors="replace")

    def terminate(self) -> None:
        os.kill(self.pid, signal.SIGTERM)

    def wait(self) -> int:
        return int(self._answers.readline() or -signal.SIGKILL)


class Launchers:
    """A process without threads, which forks launchers for one that has some."""

    def __init__(self) -> None:
        self._requests, theirs = socket.socketpair()
        if os.fork() == 0:
            self._requests.close()
            _serve(theirs)
        theirs.close()

    def start(self, environment: Mapping[str, str]) -> Popen:
        """Fork a launcher; stands for `dcp_operator.local.processes.start`."""
        output, written = os.pipe()
        ours, theirs = socket.socketpair()
        socket.send_fds(self._requests, [b"."], [written, theirs.fileno()])
        os.close(written)
        theirs.close()
        ours.sendall(json.dumps(dict(environment)).encode() + b"\n")
        return Popen(ours, output)


def _serve(requests: socket.socket) -> NoReturn:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    while True:
        asked, descriptors, _, _ = socket.recv_fds(requests, 1, 2)
        if not asked:
            os._exit(0)
        if os.fork() == 0:
            requests.close()
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            _keep(descriptors[0], socket.socket(fileno=descriptors[1]))
        for each in descriptors:
            os.close(each)


def _keep(output: int, answers: socket.socket) -> NoReturn:
    """Fork a launcher, say its pid, and how it ended."""
    environment = json.loads(answers.makefile().readline())
    launcher = os.fork()
    if launcher == 0:
        answers.close()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_DFL)
        os.setsid()
        _become(environment, output)
    os.close(output)
    answers.sendall(f"{launcher}\n".encode())
    _, status = os.waitpid(launcher, 0)
    answers.sendall(f"{os.waitstatus_to_exitcode(status)}\n".encode())
    os._exit(0)


def _launched(environment: Mapping[str, str], log: str) -> NoReturn:
    os.setsid()
    _become(environment, os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644))


def _become(environment: Mapping[str, str], output: int) -> NoReturn:
    """Run the launcher's `main` in this process as a program that has just started, and end with its exit code."""
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.environ.clear()
    os.environ.update(environment)
    sys.path[:0] = [each for each in environment.get("PYTHONPATH", "").split(os.pathsep) if each not in sys.path]
    from dcp_worker.launcher import main, rank_processes

    _end(main.main(processes=rank_processes.RankProcesses(method="fork")))


def _run(arguments: list[str], folder: str, working: str, environment: dict[str, str]) -> NoReturn:
    for number, name in enumerate(("in", "out", "err")):
        flags = os.O_RDONLY if name == "in" else os.O_WRONLY | os.O_CREAT
        os.dup2(os.open(os.path.join(folder, name), flags), number)  # noqa: PTH118 - paths of the kernel's
    sys.stdin = os.fdopen(0)
    os.chdir(working)
    os.environ.clear()
    os.environ.update(environment)
    from dcp_operator.cli.main import main
    from dcp_operator.local import processes

    processes.start = Launchers().start  # type: ignore[assignment] # what it uses of a Popen is there
    sys.argv = ["dcp", *arguments]
    try:
        main()
    except SystemExit as end:
        _end(end.code)
    _end(0)


def _end(code: object) -> NoReturn:
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code if isinstance(code, int) else 0)
