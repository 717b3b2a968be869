"""Imported first by the server that forks the ranks: it ends with its launcher, and leaves SIGTERM to it.

The import itself does that, since an import is all that `set_forkserver_preload` offers. A server that is still loading
torch would notice the end of its launcher only afterwards. One that took a SIGTERM meant for the whole process group
would take the ranks with it in the middle of a save.

Loading torch makes a million objects that all stay: without the collector looking through them it takes a sixth less.
The ranks turn it on again.
"""

import gc
import os
import signal

from dcp_worker.rank.process import LAUNCHER_ENV, die_with_parent

die_with_parent()
if os.environ.get(LAUNCHER_ENV) not in {None, str(os.getppid())}:
    os._exit(1)
signal.signal(signal.SIGTERM, signal.SIG_IGN)
gc.disable()
