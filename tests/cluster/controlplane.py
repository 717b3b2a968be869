"""etcd and kube-apiserver, with or without the controllers: a real Kubernetes API in a few seconds.

By itself this is what tests of the API and the operator's benchmark need: Jobs, owner references and admission are
real, pods stay Pending since there is no node. `cluster.bare` puts a node to it.
"""

import json
import secrets
import shutil
import ssl
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from http import HTTPStatus
from http.client import HTTPException, HTTPSConnection
from pathlib import Path
from typing import Any, Final

from cluster.builds import programs
from cluster.kubectl import Kubectl
from cluster.processes import DIE_WITH_PARENT, Processes, run
from cluster.versions import API, CLUSTER
from free_ports import free_port

LOOPBACK: Final = "127.0.0.1"
SERVICE_RANGE: Final = "10.96.0.0/16"
NODE_NAME: Final = "dcp-node"

_USERS: Final = {
    # Token name -> user, group. Controllers and node have the names that Kubernetes' own RBAC rules speak of.
    "admin": ("admin", "system:masters"),
    "scheduler": ("system:kube-scheduler", ""),
    "controller-manager": ("system:kube-controller-manager", ""),
    "kubelet": (f"system:node:{NODE_NAME}", "system:nodes"),
    "kube-proxy": ("system:kube-proxy", ""),
    "coredns": ("coredns", ""),
}


@dataclass(frozen=True)
class ControlPlane:
    """The Kubernetes API of one run folder, listening on one address."""

    folder: Path
    processes: Processes
    address: str = LOOPBACK
    port: int = 6443
    etcd_port: int = 2379

    @property
    def url(self) -> str:
        """Where the API server listens."""
        return f"https://{self.address}:{self.port}"

    @property
    def certificate(self) -> Path:
        """The API server's certificate, which it makes itself and which is its own authority."""
        return self.folder / "pki" / "apiserver.crt"

    def kubeconfig(self, user: str = "admin") -> Path:
        """Return the kubeconfig of one of the users that `start` made."""
        return self.folder / ("kubeconfig" if user == "admin" else f"{user}.kubeconfig")

    def start(self, *, controllers: bool = True) -> None:
        """Start etcd, the API server and the controllers, and wait until the API server is ready."""
        tokens = self._make_keys()
        self._start_etcd()
        self.processes.start("kube-apiserver", self._apiserver())
        self.processes.wait("kube-apiserver", lambda: self._answers("/readyz", tokens["admin"]))
        for user, token in tokens.items():
            kubeconfig = self.kubeconfig(user)
            kubeconfig.write_text(json.dumps(self._kubeconfig(user, token), indent=1))
            kubeconfig.chmod(0o600)
        if controllers:
            self.processes.start("kube-controller-manager", self._controller_manager())
            # Pods are refused until the namespace has its ServiceAccount.
            path = "/api/v1/namespaces/default/serviceaccounts/default"
            self.processes.wait("kube-controller-manager", lambda: self._answers(path, tokens["admin"]))

    def start_scheduler(self) -> None:
        """Start the scheduler; without a node it would have nothing to do."""
        options = {"kubeconfig": self.kubeconfig("scheduler"), "leader-elect": "false", "secure-port": 0}
        self.processes.start("kube-scheduler", [programs(CLUSTER)["kube-scheduler"], *_flags(options)])

    @property
    def kubectl(self) -> Kubectl:
        """kubectl as the administrator."""
        return Kubectl(self.kubeconfig())

    def _make_keys(self) -> Mapping[str, str]:
        pki = self.folder / "pki"
        pki.mkdir(parents=True, exist_ok=True)
        key = run(["openssl", "genrsa", "2048"])
        (pki / "service-accounts.key").write_text(key)
        (pki / "service-accounts.pub").write_text(run(["openssl", "rsa", "-pubout"], stdin=key))
        tokens = {name: secrets.token_hex(16) for name in _USERS}
        lines = [f'{tokens[name]},{user},{name},"{group}"' for name, (user, group) in _USERS.items()]
        (pki / "tokens.csv").write_text("\n".join(lines) + "\n")
        return tokens

    def _start_etcd(self) -> None:
        client = f"http://{LOOPBACK}:{self.etcd_port}"
        peer = f"http://{LOOPBACK}:{self.etcd_port + 1}"
        # Nothing of a test cluster is worth an fsync.
        options = {
            "data-dir": self.folder / "etcd",
            "listen-client-urls": client,
            "advertise-client-urls": client,
            "listen-peer-urls": peer,
            "initial-advertise-peer-urls": peer,
            "initial-cluster": f"default={peer}",
            "quota-backend-bytes": 4 << 30,
        }
        etcd = self.processes.start("etcd", ["etcd", "--unsafe-no-fsync", *_flags(options)])
        # The API server ends after 20 s without it, which is how long it may take to start on a busy machine.
        self.processes.wait("etcd", lambda: etcd.listens(self.etcd_port))

    def _apiserver(self) -> list[str]:
        pki = self.folder / "pki"
        options = {
            "etcd-servers": f"http://{LOOPBACK}:{self.etcd_port}",
            "bind-address": self.address,
            "advertise-address": self.address,
            "secure-port": self.port,
            "cert-dir": pki,
            "token-auth-file": pki / "tokens.csv",
            "authorization-mode": "Node,RBAC",
            "enable-admission-plugins": "NodeRestriction",
            "allow-privileged": "true",
            "service-cluster-ip-range": SERVICE_RANGE,
            "service-account-issuer": "https://kubernetes.default.svc",
            "service-account-key-file": pki / "service-accounts.pub",
            "service-account-signing-key-file": pki / "service-accounts.key",
            "kubelet-preferred-address-types": "InternalIP",
            "profiling": "false",
        }
        if self.address == LOOPBACK:
            # The default/kubernetes Service can't lead to a loopback address; no pod is there to need it.
            options["endpoint-reconciler-type"] = "none"
        return [str(programs(API)["kube-apiserver"]), *_flags(options)]

    def _controller_manager(self) -> list[str]:
        options = {
            "kubeconfig": self.kubeconfig("controller-manager"),
            "service-account-private-key-file": self.folder / "pki/service-accounts.key",
            "root-ca-file": self.certificate,
            "use-service-account-credentials": "true",
            "leader-elect": "false",
            "secure-port": 0,
        }
        return [str(programs(API)["kube-controller-manager"]), *_flags(options)]

    def _kubeconfig(self, user: str, token: str) -> dict[str, Any]:
        name = "dcp-operator"
        return {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [
                {"name": name, "cluster": {"server": self.url, "certificate-authority": str(self.certificate)}}
            ],
            "users": [{"name": user, "user": {"token": token}}],
            "contexts": [{"name": name, "context": {"cluster": name, "user": user}}],
            "current-context": name,
        }

    def _answers(self, path: str, token: str) -> bool:
        if not self.certificate.exists():
            return False
        try:
            context = ssl.create_default_context(cafile=str(self.certificate))
            with closing(HTTPSConnection(self.address, self.port, timeout=5, context=context)) as connection:
                connection.request("GET", path, headers={"Authorization": f"Bearer {token}"})
                return connection.getresponse().status == HTTPStatus.OK
        except (OSError, HTTPException):
            return False


@contextmanager
def api_server(*, controllers: bool = True) -> Iterator[ControlPlane]:
    """Run an API server of one's own on free loopback ports, and remove all of it at the end."""
    folder = Path(tempfile.mkdtemp(prefix="dcp-operator-api-"))
    # A test run that is killed can't clean up: its death ends the programs.
    processes = Processes(folder, DIE_WITH_PARENT)
    # etcd's peers have the port after its own.
    plane = ControlPlane(folder, processes, port=free_port(), etcd_port=free_port(neighbours=1))
    try:
        plane.start(controllers=controllers)
        yield plane
    finally:
        processes.end_all()
        shutil.rmtree(folder)


def _flags(options: Mapping[str, object]) -> list[str]:
    return [f"--{name}={value}" for name, value in options.items()]
