"""A commit's subject: 8 to 72 characters. `python .ci/subject.py FILE`, as git's hook commit-msg calls it."""

import sys
from pathlib import Path

LEAST, MOST = 8, 72


def problem(message: str) -> str:
    """Return what is wrong with a message's subject; nothing if nothing is."""
    lines = [line for line in message.splitlines() if not line.startswith("#")]
    subject = lines[0].strip() if lines else ""
    if subject.startswith(("fixup! ", "squash! ", "Merge ", "Revert ")):
        return ""
    if not LEAST <= len(subject) <= MOST:
        return f"the subject has {len(subject)} characters; write {LEAST} to {MOST}: {subject}"
    if len(lines) > 1 and lines[1].strip():
        return "the line after the subject is not empty"
    return ""


if __name__ == "__main__":
    sys.exit(problem(Path(sys.argv[1]).read_text(encoding="utf-8")))
