"""`python -m dcp_operator` as a process of the test's own, outside of the cluster that it serves."""

import json
import os
import re
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from cluster.controlplane import ControlPlane
from cluster.processes import DIE_WITH_PARENT
from e2e.kube import Kube, until
from free_ports import free_port

TICKS = os.sysconf("SC_CLK_TCK")
PAGE = os.sysconf("SC_PAGE_SIZE")


def account_of_operator(plane: ControlPlane, admin: Kube, folder: Path) -> Kube:
    """Return kubectl as the operator's account."""
    account = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "dcp-operator"}}
    admin("create", "namespace", "dcp-operator")
    admin.within("dcp-operator").apply(account)
    config = json.loads(plane.kubeconfig().read_text())
    config["users"][0]["user"]["token"] = admin.within("dcp-operator")("create", "token", "dcp-operator").strip()
    path = folder / "account.kubeconfig"
    path.write_text(json.dumps(config))
    return Kube(path, "default")


class OperatorProcess:
    """One operator, killed at the end of the context.

    Args:
        kubeconfig: How it reaches the API server.
        log: Where its log goes.
        options: Of its command line.
    """

    def __init__(self, kubeconfig: Path, log: Path, options: Sequence[str] = ("--no-elect",)) -> None:
        self.kubeconfig = kubeconfig
        self.log = log
        self.options = options
        self.port = free_port()
        self.process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()

    def start(self) -> None:
        """Start it; it need not be in service yet."""
        command = [*DIE_WITH_PARENT, sys.executable, "-m", "dcp_operator"]
        command += ["--worker-image", "worker", "--lease-namespace", "default", "--channel-port", "0"]
        environment = os.environ | {"KUBECONFIG": str(self.kubeconfig)}
        with self.log.open("ab") as out:
            self.process = subprocess.Popen(
                [*command, "--port", str(self.port), *self.options], env=environment, stdout=out, stderr=out
            )

    def kill(self) -> None:
        """End it as a power cut would."""
        # The same process for both: another thread starts the next one as soon as this one is gone.
        process = self.process
        if process is not None:
            process.kill()
            process.wait()

    def terminate(self, seconds: float = 20) -> int:
        """Ask it to end; return its exit code."""
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(seconds)

    def running(self) -> bool:
        """Return whether the process is there."""
        return self.process is not None and self.process.poll() is None

    def page(self, path: str) -> tuple[int, str]:
        """Return the code and the text of one of its pages; code 0 where it does not answer."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=5) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()
        except OSError:
            return 0, ""

    def wait_in_service(self, seconds: float = 180) -> None:
        """Wait until it works on Checkpoints."""
        until(lambda: self.counter("dcp_in_service"), lambda value: value == 1, "the operator in service", seconds)

    def counter(self, name: str, **labels: str) -> float:
        """Return the sum of a metric over all samples that have the labels."""
        total = 0.0
        for line in self.page("/metrics")[1].splitlines():
            found = re.fullmatch(rf"{name}(?:\{{(.*)\}})? (\S+)", line)
            if found and all(f'{key}="{value}"' in (found[1] or "") for key, value in labels.items()):
                total += float(found[2])
        return total

    def writes(self) -> float:
        """Return how many requests changed something so far, events aside."""
        sent = sum(self.counter("dcp_api_requests_total", method=verb) for verb in ("POST", "PUT", "PATCH", "DELETE"))
        return sent - self.counter("dcp_api_requests_total", resource="events")

    def resident(self) -> int:
        """Return the bytes of memory that it holds."""
        assert self.process is not None
        return int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1]) * PAGE

    def peak(self) -> int:
        """Return the most bytes of memory that it ever held."""
        assert self.process is not None
        text = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(re.findall(r"VmHWM:\s+(\d+)", text)[0]) * 1024

    def cpu(self) -> float:
        """Return the seconds of CPU that it used."""
        assert self.process is not None
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / TICKS
