"""What `dcp run` shows while it works: a live bar per Checkpoint on a terminal, plain lines anywhere else.

Everything goes to standard error, so that standard output holds nothing but the result.
"""

import time
from types import TracebackType
from typing import Final, Protocol, Self

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.progress import Progress as RichProgress

from dcp_contract.progress import Progress
from dcp_contract.sizes import human_bytes
from dcp_operator.api.checkpoint.status import Phase

LINE_SECONDS: Final = 5.0
"""Between two plain lines that differ in their progress alone."""
STYLES: Final = {Phase.SUCCEEDED: "green", Phase.CONFLICT: "yellow", Phase.FAILED: "red", Phase.SUSPENDED: "magenta"}


class View(Protocol):
    """Shows the Checkpoints of one `dcp run`; used as a context manager around it."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def show(self, name: str, phase: Phase, progress: Progress | None, ranks: int) -> None:
        """Show where a Checkpoint stands."""

    def say(self, line: str) -> None:
        """Show one line beside the bars; may be called from any thread."""


def view(console: Console) -> View:
    """Return the live view on a terminal, else the plain one."""
    return Bars(console) if console.is_terminal else Lines(console)


class Bars:
    """One rich progress bar per Checkpoint."""

    def __init__(self, console: Console) -> None:
        self._progress = RichProgress(
            TextColumn("[bold]{task.fields[name]}"),
            TextColumn("{task.fields[phase]}"),
            BarColumn(bar_width=30),
            TextColumn("{task.percentage:>3.0f}%"),
            TextColumn("{task.fields[rate]}"),
            TextColumn("{task.fields[ranks]}"),
            TimeElapsedColumn(),
            console=console,
        )
        self._bars: dict[str, TaskID] = {}

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def show(self, name: str, phase: Phase, progress: Progress | None, ranks: int) -> None:
        """Move the Checkpoint's bar, made when it is first shown."""
        if name not in self._bars:
            self._bars[name] = self._progress.add_task("", total=100, name=escape(name), phase="", rate="", ranks="")
        bar = self._bars[name]
        self._progress.update(
            bar,
            completed=_percent(phase, progress),
            phase=f"[{STYLES.get(phase, 'cyan')}]{phase}[/] {escape(_stage(phase, progress))}",
            rate=_rate(progress),
            ranks=_ranks(ranks),
        )
        if phase.terminal:
            self._progress.stop_task(bar)

    def say(self, line: str) -> None:
        """Print above the bars."""
        self._progress.console.print(line, markup=False, highlight=False, soft_wrap=True)


class Lines:
    """One line for each new phase, and for progress one every LINE_SECONDS."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._last: dict[str, tuple[Phase, float]] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Have nothing to clean up."""

    def show(self, name: str, phase: Phase, progress: Progress | None, ranks: int) -> None:
        """Print a line if there is news."""
        last_phase, last_time = self._last.get(name, (None, 0.0))
        now = time.monotonic()
        moving = progress is not None and phase is Phase.RUNNING
        if phase is last_phase and not (moving and now - last_time >= LINE_SECONDS):
            return
        self._last[name] = (phase, now)
        percent = f"{progress.percent}%" if progress is not None and progress.total_bytes else ""
        facts = [_stage(phase, progress), percent, _rate(progress)] if moving else []
        self.say(f"{name}: {', '.join([phase, *filter(None, facts), _ranks(ranks)])}")

    def say(self, line: str) -> None:
        """Print the line."""
        self._console.print(line, markup=False, highlight=False, soft_wrap=True)


def _stage(phase: Phase, progress: Progress | None) -> str:
    return progress.stage if progress is not None and phase is Phase.RUNNING else ""


def _percent(phase: Phase, progress: Progress | None) -> int:
    if phase is Phase.SUCCEEDED:
        return 100
    return progress.percent if progress is not None else 0


def _rate(progress: Progress | None) -> str:
    return f"{human_bytes(progress.bytes_per_second)}/s" if progress is not None and progress.bytes_per_second else ""


def _ranks(ranks: int) -> str:
    return f"{ranks} rank{'' if ranks == 1 else 's'}"
