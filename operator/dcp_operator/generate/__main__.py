"""`python -m dcp_operator.generate` writes every generated file of the repository; with --check it compares them."""

import sys
from collections.abc import Iterable
from pathlib import Path

from dcp_operator.generate import admission, crd, pod_fields, reference


def files() -> tuple[tuple[Path, str], ...]:
    """Return each generated file with its text."""
    return (
        *crd.files(),
        *admission.files(),
        (pod_fields.PATH, pod_fields.render()),
        *reference.pages(),
    )


def main(arguments: list[str], generated: Iterable[tuple[Path, str]]) -> int:
    """Write the files, or compare them; return the exit code."""
    drifted = False
    for path, text in generated:
        if arguments != ["--check"]:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
        elif not path.is_file() or path.read_text(encoding="utf-8") != text:
            sys.stderr.write(f"{path} is out of date; run `make reference` and commit it\n")
            drifted = True
    return int(drifted)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], files()))
