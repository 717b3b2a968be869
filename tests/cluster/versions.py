"""Which programs the cluster is made of: name, package and version, in one place.

A version is part of the name of the built file, so that a new version is a new build and an old checkout finds its own.
"""

import shutil
from dataclasses import dataclass
from typing import Final

KUBERNETES: Final = "v1.34.4"


@dataclass(frozen=True)
class GoProgram:
    """One main package of a published Go module, at one version."""

    name: str
    package: str
    version: str
    linker_flags: str = "-s -w"

    @property
    def file_name(self) -> str:
        """Name of the built file."""
        return f"{self.name}-{self.version}"


def _kubernetes(name: str) -> GoProgram:
    stamp = f"-X k8s.io/component-base/version.gitVersion={KUBERNETES}"
    return GoProgram(name, f"k8s.io/kubernetes/cmd/{name}", KUBERNETES, f"-s -w {stamp}")


API: Final = ("kube-apiserver", "kube-controller-manager", "kubectl")
"""What an API server by itself needs."""
CLUSTER: Final = (*API, "kube-scheduler", "kubelet", "kube-proxy", "coredns", "versitygw")
"""What one node with its control plane needs; toxiproxy-server and fake-gcs-server are for the tests."""

PROGRAMS: Final = {
    program.name: program
    for program in (
        *(_kubernetes(name) for name in (*API, "kube-scheduler", "kubelet", "kube-proxy")),
        GoProgram("coredns", "github.com/coredns/coredns", "v1.14.7"),
        GoProgram("versitygw", "github.com/versity/versitygw/cmd/versitygw", "v1.8.0"),
        GoProgram("fake-gcs-server", "github.com/fsouza/fake-gcs-server", "v1.56.1"),
        GoProgram("toxiproxy-server", "github.com/Shopify/toxiproxy/v2/cmd/server", "v2.5.0"),
        # Nodes without a kubelet; a check of manifests against the API's schemas; a cluster where Docker is.
        GoProgram("kwok", "sigs.k8s.io/kwok/cmd/kwok", "v0.8.0"),
        GoProgram("kubeconform", "github.com/yannh/kubeconform/cmd/kubeconform", "v0.8.0"),
        GoProgram("kind", "sigs.k8s.io/kind", "v0.33.0"),
    )
}

NPM_PACKAGES: Final = {"azurite": "3.37.0"}
"""Name -> version of what the tests run on Node.js."""

DEBIAN_PACKAGES: Final = {
    "etcd": "etcd-server",
    "containerd": "containerd",
    "runc": "runc",
    "/usr/lib/cni/ptp": "containernetworking-plugins",
    "conntrack": "conntrack",
    "iptables": "iptables",
    "ip": "iproute2",
    "nsenter": "util-linux",
    "openssl": "openssl",
    "buildah": "buildah",
    "debootstrap": "debootstrap",
    "docker-registry": "docker-registry",
}
"""Program, by name or by path -> the Debian package that has it. An API server by itself needs etcd and openssl."""


def missing_packages() -> list[str]:
    """Return the Debian packages whose programs are not on this machine."""
    return [package for program, package in DEBIAN_PACKAGES.items() if not shutil.which(program)]
