"""`python -m dcp_worker`: one pod of an attempt, or a look at a checkpoint from the command line."""

import sys

if __name__ == "__main__":
    if len(sys.argv) > 1:
        from dcp_worker.cli.app import run

        sys.exit(run(sys.argv[1:]))
    from dcp_worker.launcher.main import main

    sys.exit(main())
