"""One real node: containerd, kubelet and kube-proxy."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import grpc

from cluster.builds import programs
from cluster.controlplane import NODE_NAME, ControlPlane
from cluster.images import PAUSE_IMAGE
from cluster.places import cache_dir
from cluster.processes import Processes
from cluster.sandbox import CGROUP, NODE_ADDRESS, POD_RANGE, Sandbox
from cluster.versions import CLUSTER

CLUSTER_DNS: Final = "10.96.0.10"

_CONTAINERD: Final = """version = 2
root = "{root}"
state = "/run/containerd"
[grpc]
  address = "{socket}"
[plugins."io.containerd.internal.v1.opt"]
  path = "{opt}"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{pause}"
  restrict_oom_score_adj = true
  stream_server_address = "127.0.0.1"
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/usr/lib/cni"
    conf_dir = "{networks}"
"""


class Node:
    """The node of one run folder; the API server must answer before `start`, the registry before `pull`."""

    def __init__(self, sandbox: Sandbox, plane: ControlPlane) -> None:
        self.folder = sandbox.folder / "node"
        self._sandbox = sandbox
        self._plane = plane
        self._programs = programs(CLUSTER)

    @property
    def socket(self) -> Path:
        """Where containerd listens."""
        return self.folder / "containerd.sock"

    def start_containerd(self, processes: Processes) -> None:
        """Start containerd on the image store of the cache, without the containers of an earlier cluster."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self._write_network()
        config = _CONTAINERD.format(
            root=cache_dir() / "containerd",
            socket=self.socket,
            opt=self.folder / "opt",
            pause=PAUSE_IMAGE,
            networks=self.folder / "networks",
        )
        path = self.folder / "containerd.toml"
        path.write_text(config)
        processes.start("containerd", ["containerd", "--config", path])
        processes.wait("containerd", self._serves_kubelet)
        earlier = self.ctr("containers", "list", "--quiet").split()
        if earlier:
            self.ctr("containers", "delete", *earlier)

    def start(self, processes: Processes) -> None:
        """Start kubelet and kube-proxy, and wait until the node is Ready."""
        kubelet = self._write("kubelet.json", self._kubelet())
        arguments = {
            "config": kubelet,
            "kubeconfig": self._plane.kubeconfig("kubelet"),
            "root-dir": self.folder / "kubelet",
            "cert-dir": self.folder / "pki",
            "node-ip": NODE_ADDRESS,
            "hostname-override": NODE_NAME,
        }
        processes.start(
            "kubelet", [self._programs["kubelet"], *(f"--{key}={value}" for key, value in arguments.items())]
        )
        proxy = self._write("kube-proxy.json", self._kube_proxy())
        processes.start("kube-proxy", [self._programs["kube-proxy"], f"--config={proxy}"])
        processes.wait("kubelet", self._ready)

    def ctr(self, *arguments: str) -> str:
        """Run containerd's own client on the images and containers of Kubernetes."""
        return self._sandbox.run("ctr", "--address", self.socket, "--namespace", "k8s.io", *arguments)

    def pull(self, image: str) -> None:
        """Bring an image onto the node, so that the first pod that wants it starts at once."""
        if image not in self.ctr("images", "list", "--quiet").split():
            self.ctr("images", "pull", "--plain-http", image)

    def _serves_kubelet(self) -> bool:
        """Return whether containerd answers the first question of kubelet, which gives up where it does not.

        It listens long before: it first recovers the pods of an earlier cluster.
        """
        with grpc.insecure_channel(f"unix:{self.socket}") as channel:
            version: grpc.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(
                "/runtime.v1.RuntimeService/Version"
            )
            try:
                version(b"", timeout=1)
            except grpc.RpcError:
                return False
            return True

    def _ready(self) -> bool:
        path = "{.items[*].status.conditions[?(@.type=='Ready')].status}"
        return self._plane.kubectl("get", "nodes", "-o", f"jsonpath={path}") == "True"

    def _kubelet(self) -> Mapping[str, Any]:
        return {
            "apiVersion": "kubelet.config.k8s.io/v1beta1",
            "kind": "KubeletConfiguration",
            "address": NODE_ADDRESS,
            "containerRuntimeEndpoint": f"unix://{self.socket}",
            "podLogsDir": str(self.folder / "pods-logs"),
            "volumePluginDir": str(self.folder / "volume-plugins"),
            "clusterDNS": [CLUSTER_DNS],
            "clusterDomain": "cluster.local",
            "resolvConf": "",
            "cgroupDriver": "cgroupfs",
            "cgroupRoot": f"/{CGROUP}",
            # The machine's own memory and disk are not the test's business: no eviction, no image collection.
            "failSwapOn": False,
            "evictionHard": {},
            "enforceNodeAllocatable": [],
            "imageGCHighThresholdPercent": 100,
            "oomScoreAdj": 0,
            # Only the machine itself and the cluster's own pods reach this port.
            "authentication": {"anonymous": {"enabled": True}, "webhook": {"enabled": False}},
            "authorization": {"mode": "AlwaysAllow"},
        }

    def _kube_proxy(self) -> Mapping[str, Any]:
        return {
            "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
            "kind": "KubeProxyConfiguration",
            "clientConnection": {"kubeconfig": str(self._plane.kubeconfig("kube-proxy"))},
            "hostnameOverride": NODE_NAME,
            "mode": "iptables",
            "clusterCIDR": POD_RANGE,
            # The size of the connection table is the machine's, not this namespace's, to set.
            "conntrack": {"maxPerCore": 0},
        }

    def _write_network(self) -> None:
        network = {
            "cniVersion": "0.4.0",
            "name": "pods",
            "plugins": [
                {
                    # A routed pair per pod and no bridge: Services work without the bridge's netfilter module.
                    "type": "ptp",
                    "ipMasq": False,
                    "ipam": {
                        "type": "host-local",
                        "dataDir": str(self.folder / "addresses"),
                        "ranges": [[{"subnet": POD_RANGE}]],
                        "routes": [{"dst": "0.0.0.0/0"}],
                    },
                },
                {"type": "portmap", "capabilities": {"portMappings": True}},
            ],
        }
        (self.folder / "networks").mkdir(parents=True, exist_ok=True)
        (self.folder / "networks" / "pods.conflist").write_text(json.dumps(network, indent=1))

    def _write(self, name: str, content: Mapping[str, Any]) -> Path:
        path = self.folder / name
        path.write_text(json.dumps(content, indent=1))
        return path
