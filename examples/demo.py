"""`make demo`: save, be refused, replace, load on another world size, verify; then train. No cluster, no cloud.

Runs demo.yaml through `dcp run` and then checks that each Checkpoint ended as promised: this program fails if the
second save was not refused as much as if the first one was. Then a training is asked for a checkpoint, killed and run
again: its losses have to be those of a training that nothing happened to.

    python examples/demo.py [FOLDER]      # default: .demo
"""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final

HERE: Final = Path(__file__).resolve().parent
ROOT: Final = HERE.parent
PROMISED: Final = {
    "save": ("Succeeded", "Saved"),
    "save-again": ("Conflict", "OverwriteConflict"),
    "save-over": ("Succeeded", "Saved"),
    "load": ("Succeeded", "Loaded"),
    "verify": ("Succeeded", "Verified"),
}
STEPS: Final = 40
SOME: Final = 8
ONE_FAILED: Final = 1
"""The exit code of `dcp run` when a Checkpoint did not succeed: here the one that is refused."""


def main(work: Path) -> int:
    """Run the demo in a folder, which is emptied first; return 0 if all went as promised."""
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    manifest = work / "demo.yaml"
    text = (HERE / "demo.yaml").read_text(encoding="utf-8")
    manifest.write_text(text.replace("file:///checkpoints", f"file://{work}"), encoding="utf-8")
    print("Five Checkpoints on a GPT of 10 million parameters: a save by 2 ranks, the same again (to be refused),")
    print("a save that may replace it, a load by 3 ranks with another strategy, and a verification.\n")
    command = ["dcp", "run", "--verbose", "-f", os.path.relpath(manifest, ROOT)]
    print(f"$ PYTHONPATH=examples {' '.join(command)}", flush=True)
    done = subprocess.run(  # noqa: S603 - the project's own program
        [sys.executable, "-m", "dcp_operator.cli.app", *command[1:]],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(HERE)},
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    print(done.stdout)
    rows = {words[0]: words for words in map(str.split, done.stdout.splitlines()) if words}
    broken = [name for name, words in PROMISED.items() if not {*words} <= {*rows.get(name, ())}]
    if broken or done.returncode != ONE_FAILED:
        print(f"Not as promised: {', '.join(broken) or f'exit code {done.returncode}'}", file=sys.stderr)
        return 1
    print("As promised: one save was refused, since the URL was taken; the rest succeeded.")
    print(f"`dcp inspect file://{work}/gpt` describes the checkpoint.\n")
    return trained(work)


def trained(work: Path) -> int:
    """Train whole; train, ask for a checkpoint, kill, and train on; return 0 if both have the same losses."""
    print(f"A training of two ranks, whole: {STEPS} steps.")
    whole = Training(work / "whole")
    whole.process.wait()
    print(
        "The same, asked for a checkpoint by SIGUSR1 to one of its ranks, and killed with all its processes (SIGKILL)."
    )
    killed = Training(work / "run")
    killed.ask_and_kill()
    committed = [each.parent.name for each in (work / "run").glob("step-*/.metadata")]
    print(f"It left {', '.join(committed)}. Run once more, it goes on from there.")
    resumed = Training(work / "run")
    resumed.process.wait()
    first = min(resumed.losses(), default=0)
    if (
        not committed
        or first <= 1
        or killed.losses() | resumed.losses() != whole.losses()
        or len(whole.losses()) != STEPS
    ):
        print(f"Not as promised: see the logs in {work}.", file=sys.stderr)
        return 1
    print(f"As promised: it trained on from step {first} as if nothing had happened; all {STEPS} losses are equal.")
    return 0


class Training:
    """One run of train_gpt.py by torchrun, in a process group of its own."""

    number = 0

    def __init__(self, prefix: Path) -> None:
        """Start it."""
        Training.number += 1
        self.prefix, self.log = prefix, prefix.parent / f"training-{Training.number}.log"
        program = [str(HERE / "train_gpt.py"), str(prefix), f"--steps={STEPS}", "--step-seconds=0.1"]
        with self.log.open("w") as log:
            self.process = subprocess.Popen(  # noqa: S603 - the project's own program
                [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", *program],
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def losses(self) -> dict[int, str]:
        """Return the loss of each step that was logged, to its last bit."""
        found = re.findall(r"^step (\d+) loss \S+ (\S+)$", self.log.read_text(), re.MULTILINE)
        return {int(step): bits for step, bits in found}

    def ask_and_kill(self) -> None:
        """Ask for a checkpoint once some steps are done; kill once it is committed and more are done."""
        self._wait(lambda: len(self.losses()) >= SOME)
        said = re.findall(r"^rank \d is process (\d+)$", self.log.read_text(), re.MULTILINE)
        ranks = [int(each) for each in said]
        os.kill(ranks[-1], signal.SIGUSR1)
        self._wait(lambda: [*self.prefix.glob("step-*/.metadata")])
        before = len(self.losses())
        self._wait(lambda: len(self.losses()) > before + 1)
        for process in (self.process.pid, *ranks):
            with suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        self.process.wait()

    def _wait(self, true: Callable[[], object]) -> None:
        while not true() and self.process.poll() is None:
            time.sleep(0.05)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]).resolve() if len(sys.argv) > 1 else ROOT / ".demo"))
