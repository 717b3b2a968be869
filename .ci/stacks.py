"""Whether the extras install beside the training stacks of today: `make check-stacks`.

A resolver is asked, nothing is installed. Each stack is pinned where an older release would resolve, and hide that the
one that people use does not.
"""

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[1]
STACKS: Final = {
    "torchtitan": ["torchtitan==0.3.0"],
    "datasets, the oldest with a cap of today": ["datasets==3.6.0"],
    "datasets": ["datasets==4.8.*"],
    "accelerate": ["accelerate==1.15.*"],
    "transformers": ["transformers==5.23.*", "accelerate==1.15.*", "datasets"],
    "lightning": ["lightning==2.6.*"],
    "torchtitan, transformers and lightning": ["torchtitan==0.3.0", "transformers>=5", "lightning==2.6.*"],
}
EXTRA: Final = "worker"
"""With all that the engine needs, and more."""


def problem(uv: str, stack: list[str]) -> str:
    """Return what the resolver has against our extra beside a stack; empty if they go together."""
    asked = "\n".join([*stack, f"dcp-operator[{EXTRA}] @ {ROOT.as_uri()}"])
    options = [
        "--no-emit-index-url",
        "--no-header",
        "--quiet",
        "--python-version",
        "3.11",
        "--output-file",
        "/dev/null",
    ]
    done = subprocess.run(  # noqa: S603 - uv
        [uv, "pip", "compile", *options, "-"], input=asked, capture_output=True, text=True, check=False, cwd=ROOT
    )
    return "" if done.returncode == 0 else done.stderr.strip() or f"uv ended with {done.returncode}"


def main(uv: str) -> int:
    """Print a row for each stack; return 1 if one of them can't be had."""
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(partial(problem, uv), STACKS.values()))
    for name, said in zip(STACKS, found, strict=True):
        print(f"{'FAILED' if said else 'ok':<8}{name}")  # noqa: T201 - what it is for
    for said in filter(None, found):
        print(said, file=sys.stderr)  # noqa: T201
    return 1 if any(found) else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
