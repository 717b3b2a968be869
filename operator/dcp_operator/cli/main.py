"""The program `dcp`: says in one line what is missing where the package was installed without its command line."""

import sys

_NEEDED = {"rich", "typer", "yaml"}


def main() -> None:
    """Run the command line, or end with 2."""
    try:
        from dcp_operator.cli.app import main as run  # noqa: PLC0415 - which may not import
    except ModuleNotFoundError as error:
        if error.name not in _NEEDED:
            raise
        sys.stderr.write(f"{error.name} missing; install the command line: pip install 'dcp-operator[cli]'\n")
        sys.exit(2)
    run()
