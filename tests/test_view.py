"""What `dcp run` shows while it works, on a terminal and in a log."""

import io
from collections.abc import Sequence

import pytest
from rich.console import Console

from dcp_contract.progress import Progress
from dcp_operator.api.checkpoint.status import Phase
from dcp_operator.local.view import Bars, Lines, view

HALF = Progress(stage="saving", bytes=50_000_000, total_bytes=100_000_000, bytes_per_second=25e6, ranks=2)
Shown = tuple[Phase, Progress | None]

LINES = {
    "one line per phase": (
        [(Phase.STARTING, None), (Phase.STARTING, None), (Phase.RUNNING, None), (Phase.SUCCEEDED, HALF)],
        ["one: Starting, 2 ranks", "one: Running, 2 ranks", "one: Succeeded, 2 ranks"],
    ),
    "progress with its first running line": (
        [(Phase.RUNNING, HALF), (Phase.RUNNING, HALF)],
        ["one: Running, saving, 50%, 24 MiB/s, 2 ranks"],
    ),
    "a stage without a size": (
        [(Phase.RUNNING, Progress(stage="importing the workload"))],
        ["one: Running, importing the workload, 2 ranks"],
    ),
    "a failure": ([(Phase.RUNNING, None), (Phase.FAILED, HALF)], ["one: Running, 2 ranks", "one: Failed, 2 ranks"]),
}


@pytest.mark.parametrize(("shown", "lines"), LINES.values(), ids=LINES.keys())
def test_a_log_gets_a_line_for_what_is_new(shown: Sequence[Shown], lines: list[str]) -> None:
    out = io.StringIO()
    with view(Console(file=out)) as plain:
        assert isinstance(plain, Lines)
        for phase, progress in shown:
            plain.show("one", phase, progress, 2)
    assert out.getvalue().splitlines() == lines


def test_a_terminal_gets_a_bar_per_checkpoint_and_lines_above_them() -> None:
    out = io.StringIO()
    with view(Console(file=out, force_terminal=True, width=120)) as live:
        assert isinstance(live, Bars)
        live.show("one", Phase.RUNNING, HALF, 2)
        live.say("[one] 10 [red]sentences[/]")
        live.show("one", Phase.SUCCEEDED, HALF, 2)
        live.show("two", Phase.RUNNING, HALF, 1)
    text = out.getvalue()
    assert "[one] 10 [red]sentences[/]" in text
    last = [line for line in text.splitlines() if "one" in line or "two" in line][-2:]
    for word in ("one", "Succeeded", "100%", "24 MiB/s", "2 ranks"):
        assert word in last[0]
    for word in ("two", "Running", "saving", " 50%", "1 rank"):
        assert word in last[1]
