"""What the cluster's tooling promises about processes and builds, without a cluster."""

import dataclasses
import socket
import sys
from pathlib import Path

import pytest

from cluster import builds
from cluster.processes import CommandError, NotReadyError, Processes, run

FOREVER = [sys.executable, "-c", "import signal; signal.pause()"]


def test_another_command_ends_exactly_what_was_started(tmp_path: Path) -> None:
    started = Processes(tmp_path).start("program", FOREVER)
    found = Processes(tmp_path).get("program")
    assert found == started
    assert found.alive()
    Processes(tmp_path).end_all()
    assert not started.alive()


def test_a_process_id_that_went_to_somebody_else_is_left_alone(tmp_path: Path) -> None:
    other = Processes(tmp_path).start("program", FOREVER)
    stale = dataclasses.replace(other, start_ticks=other.start_ticks - 1)
    assert not stale.alive()
    stale.end()
    assert other.alive()
    other.end()


def test_a_program_restarts_with_its_own_command(tmp_path: Path) -> None:
    processes = Processes(tmp_path)
    first = processes.start("program", FOREVER, {"KEY": "value"})
    first.end()
    again = processes.restart("program")
    assert again.alive()
    assert (again.command, again.environment) == (first.command, first.environment)
    again.end()


def test_a_program_that_dies_is_reported_with_its_last_words(tmp_path: Path) -> None:
    processes = Processes(tmp_path)
    processes.start("program", [sys.executable, "-c", "raise SystemExit('no such flag')"])
    with pytest.raises(NotReadyError, match="no such flag"):
        processes.wait("program", lambda: False)


def test_a_program_is_ready_once_somebody_listens(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        serve = f"import socket, time; server = socket.create_server(('127.0.0.1', {port})); time.sleep(600)"
        program = Processes(tmp_path).start("program", FOREVER)
        assert program.listens(port)
    assert not program.listens(port)
    program.end()
    program = Processes(tmp_path).start("program", [sys.executable, "-c", serve])
    Processes(tmp_path).wait("program", lambda: program.listens(port))
    program.end()


def test_a_failed_command_says_what_it_wrote() -> None:
    with pytest.raises(CommandError, match="ended with 3:\nwhy"):
        run([sys.executable, "-c", "print('why'); raise SystemExit(3)"])


def test_staging_modules_come_from_their_published_versions() -> None:
    theirs = "module k8s.io/kubernetes\n\ngo 1.24.0\n\nrequire (\n\tk8s.io/api v0.0.0\n\tk8s.io/klog/v2 v2.130.1\n)\n"
    text = builds._go_mod(theirs)
    assert "go 1.24.0\n" in text
    assert "replace k8s.io/api => k8s.io/api v0.34.4\n" in text
    assert "klog" not in text
