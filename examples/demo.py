"""`make demo`: save, be refused, replace, load on another world size, verify. No cluster, no cloud.

Runs demo.yaml through `dcp run` and then checks that each Checkpoint ended as promised: this program fails if the
second save was not refused as much as if the first one was.

    python examples/demo.py [FOLDER]      # default: .demo
"""

import os
import shutil
import subprocess
import sys
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
    print(f"`dcp inspect file://{work}/gpt` describes the checkpoint.")
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]).resolve() if len(sys.argv) > 1 else ROOT / ".demo"))
