"""Pod templates, URLs and options, good and bad: the operator's own check and the API server's are held to these."""

from typing import Any, Final

Template = dict[str, Any]


def worker(**fields: Any) -> Template:
    return {"spec": {"containers": [{"name": "worker", **fields}]}}


def env(name: object, value: object) -> Template:
    return worker(env=[{"name": name, "value": value}])


def volume(**source: Any) -> Template:
    return {"spec": {"volumes": [{"name": "v", **source}]}}


def token(**fields: Any) -> Template:
    return volume(projected={"sources": [{"configMap": {"name": "c"}}, {"serviceAccountToken": fields}]})


SECRET: Final = "hunter2hunter2"

BAD: Final[dict[str, tuple[Template, str]]] = {
    # What stays ours, wherever it runs.
    "unknown field": ({"kind": "Pod"}, "unknown field; write metadata"),
    "a pod's name": ({"metadata": {"name": "x"}}, "is not accepted; write labels or annotations"),
    "owner": ({"metadata": {"ownerReferences": []}}, "is not accepted; write labels or annotations"),
    "spec a list": ({"spec": []}, "metadata and spec have the wrong type"),
    "metadata a word": ({"metadata": "x"}, "metadata and spec have the wrong type"),
    "shareProcessNamespace": ({"spec": {"shareProcessNamespace": True}}, "is not accepted; drop it"),
    "hostname": ({"spec": {"hostname": "x"}}, "is not accepted; drop it"),
    "hostnameOverride": ({"spec": {"hostnameOverride": "x"}}, "is not accepted; drop it"),
    "subdomain": ({"spec": {"subdomain": "x"}}, "is not accepted; drop it"),
    "setHostnameAsFQDN": ({"spec": {"setHostnameAsFQDN": True}}, "is not accepted; drop it"),
    "restartPolicy": ({"spec": {"restartPolicy": "Always"}}, "is not accepted; drop it, retries"),
    "activeDeadlineSeconds": ({"spec": {"activeDeadlineSeconds": 5}}, "write spec.timeouts.activeSeconds"),
    "grace": ({"spec": {"terminationGracePeriodSeconds": 5}}, "is not accepted; drop it, a terminated rank"),
    "nodeName": ({"spec": {"nodeName": "n"}}, "write nodeSelector or affinity"),
    "ephemeralContainers": ({"spec": {"ephemeralContainers": [{"name": "e"}]}}, "is not accepted; drop it"),
    "API token": ({"spec": {"automountServiceAccountToken": True}}, "workers get no API token"),
    "projected API token": (token(), "workers get no API token"),
    "projected API token by a path alone": (token(path="t"), "workers get no API token"),
    "token for no audience": (token(audience=""), "workers get no API token"),
    "token for null": (token(audience=None), "workers get no API token"),
    "token for the API server": (token(audience="https://kubernetes.default.svc"), "workers get no API token"),
    "token for the API server, in full": (
        token(audience="https://kubernetes.default.svc.cluster.local"),
        "workers get no API token",
    ),
    "token for the API server, bare": (token(audience="kubernetes.default.svc"), "workers get no API token"),
    "token for the API server of EKS": (
        token(audience="https://oidc.eks.eu-west-1.amazonaws.com/id/ABC"),
        "workers get no API token",
    ),
    "token for the API server of GKE": (
        token(audience="https://container.googleapis.com/v1/projects/p/locations/l/clusters/c"),
        "workers get no API token",
    ),
    "token of another shape": (volume(projected={"sources": [{"serviceAccountToken": "x"}]}), "workers get no API"),
    "a certificate for the API server": (
        volume(projected={"sources": [{"podCertificate": {"signerName": "kubernetes.io/kube-apiserver-client-pod"}}]}),
        "workers get no certificate for the API server",
    ),
    "mount at the token's path": (
        worker(volumeMounts=[{"name": "v", "mountPath": "/var/run/secrets/kubernetes.io/serviceaccount"}]),
        "workers get no API token; drop the mount",
    ),
    "mount at the token's real path": (
        worker(volumeMounts=[{"name": "v", "mountPath": "/run//secrets/kubernetes.io/serviceaccount/x"}]),
        "workers get no API token; drop the mount",
    ),
    "worker's image": (worker(image="x"), "write spec.workers.image"),
    "worker's command": (worker(command=["x"]), "write spec.workload.entrypoint"),
    "worker's restarts": (worker(restartPolicy="OnFailure"), "drop it, retries are spec.retries"),
    "worker's rules of restarts": (worker(restartPolicyRules=[]), "drop it, retries are spec.retries"),
    "a label by which pods are known": (
        {"metadata": {"labels": {"dcp-operator.io/run-id": "x"}}},
        "labels of dcp-operator.io are the operator's own",
    ),
    "a token for K3s": (token(audience="k3s", path="t"), "workers get no API token"),
    "a token for RKE2": (token(audience="rke2", path="t"), "workers get no API token"),
    "a password that begins with $": (env("HTTPS_PROXY", f"http://me:${SECRET}@proxy"), "an address with a password"),
    "a password that is no reference": (env("HTTPS_PROXY", "http://me:$$(PASSWORD)@proxy"), "an address with a"),
    "worker's args": (worker(args=["x"]), "write spec.workload.args"),
    "no name": ({"spec": {"containers": [{"image": "x"}]}}, "is missing; write worker"),
    "empty name": ({"spec": {"initContainers": [{"name": "", "image": "x"}]}}, "is missing; write worker"),
    "the operator's own variable": (env("DCP_TASK", "{}"), "is the operator's own; drop it"),
    # Secrets.
    "AWS_SECRET_ACCESS_KEY": (env("AWS_SECRET_ACCESS_KEY", SECRET), "move it to credentialsSecretRef"),
    "AWS_ACCESS_KEY_ID": (env("AWS_ACCESS_KEY_ID", SECRET), "move it to credentialsSecretRef"),
    "AWS_SESSION_TOKEN": (env("AWS_SESSION_TOKEN", SECRET), "move it to credentialsSecretRef"),
    "AZURE_STORAGE_ACCOUNT_KEY": (env("AZURE_STORAGE_ACCOUNT_KEY", SECRET), "move it to credentialsSecretRef"),
    "AZURE_STORAGE_SAS_KEY": (env("AZURE_STORAGE_SAS_KEY", SECRET), "move it to credentialsSecretRef"),
    "AZURE_CLIENT_SECRET": (env("AZURE_CLIENT_SECRET", SECRET), "move it to credentialsSecretRef"),
    "GOOGLE_SERVICE_ACCOUNT_KEY": (env("GOOGLE_SERVICE_ACCOUNT_KEY", SECRET), "move it to credentialsSecretRef"),
    "AZURE_STORAGE_SAS_TOKEN": (env("AZURE_STORAGE_SAS_TOKEN", SECRET), "write valueFrom.secretKeyRef"),
    "AZURE_STORAGE_CONNECTION_STRING": (env("AZURE_STORAGE_CONNECTION_STRING", SECRET), "write valueFrom.secretKeyRef"),
    "HF_TOKEN": (env("HF_TOKEN", SECRET), "write valueFrom.secretKeyRef"),
    "WANDB_API_KEY": (env("WANDB_API_KEY", SECRET), "write valueFrom.secretKeyRef"),
    "a secret of a sidecar": (
        {"spec": {"containers": [{"name": "log", "image": "l", "env": [{"name": "HF_TOKEN", "value": SECRET}]}]}},
        "write valueFrom.secretKeyRef",
    ),
    "a secret of an init container": (
        {"spec": {"initContainers": [{"name": "i", "env": [{"name": "AWS_SECRET_ACCESS_KEY", "value": SECRET}]}]}},
        "move it to credentialsSecretRef",
    ),
    "a proxy's password": (env("HTTPS_PROXY", f"http://me:{SECRET}@proxy:3128"), "an address with a password"),
    "a database's password": (env("DSN", f"postgresql+psycopg://me:{SECRET}@db/x"), "an address with a password"),
    # Shapes that could not be merged.
    "containers a mapping": ({"spec": {"containers": {"name": "worker"}}}, "write a list of mappings"),
    "volumes of words": ({"spec": {"volumes": ["x"]}}, "write a list of mappings"),
    "container's name a number": ({"spec": {"initContainers": [{"name": 5}]}}, "has the wrong type; write a"),
    "toleration's key a list": ({"spec": {"tolerations": [{"key": ["x"]}]}}, "has the wrong type; write a"),
    "env a mapping": (worker(env={"A": "b"}), "write a list of mappings"),
    "env's name a list": (env(["A"], "x"), "has the wrong type; write a"),
    "mount's path a mapping": (worker(volumeMounts=[{"mountPath": {}}]), "has the wrong type; write a"),
    "limits a word": (worker(resources={"limits": "1Gi"}), "has the wrong type; write limits and requests"),
    "resources a list": (worker(resources=[]), "has the wrong type; write limits and requests"),
    "claims a mapping": (worker(resources={"claims": {"name": "x"}}), "has the wrong type; write limits and requests"),
    "securityContext a word": ({"spec": {"securityContext": "x"}}, "securityContext: has the wrong type"),
    "container's securityContext a list": (worker(securityContext=[]), "securityContext: has the wrong type"),
}
"""Refused everywhere, each with what the answer says."""

PROFILE: Final[dict[str, tuple[Template, str]]] = {
    "hostNetwork": ({"spec": {"hostNetwork": True}}, "hostNetwork: is not accepted; drop it"),
    "hostPID": ({"spec": {"hostPID": True}}, "hostPID: is not accepted; drop it"),
    "hostIPC": ({"spec": {"hostIPC": True}}, "hostIPC: is not accepted; drop it"),
    "root": ({"spec": {"securityContext": {"runAsUser": 0}}}, "leave the rest of the restricted profile"),
    "root's group": ({"spec": {"securityContext": {"runAsGroup": 0}}}, "leave the rest of the restricted profile"),
    "root's group beside": (
        {"spec": {"securityContext": {"supplementalGroups": [5, 0]}}},
        "leave the rest of the restricted profile",
    ),
    "a user by name": ({"spec": {"securityContext": {"runAsUser": "root"}}}, "leave the rest of the restricted"),
    "may be root": ({"spec": {"securityContext": {"runAsNonRoot": False}}}, "leave the rest of the restricted profile"),
    "sysctls": (
        {"spec": {"securityContext": {"sysctls": [{"name": "a", "value": "b"}]}}},
        "leave the rest of the restricted profile",
    ),
    "unconfined": (
        {"spec": {"securityContext": {"seccompProfile": {"type": "Unconfined"}}}},
        "leave the rest of the restricted profile",
    ),
    "privileged": (worker(securityContext={"privileged": True}), "leave the rest of the restricted profile"),
    "a capability": (
        worker(securityContext={"capabilities": {"add": ["IPC_LOCK"]}}),
        "leave the rest of the restricted profile",
    ),
    "no capability dropped": (
        worker(securityContext={"capabilities": {}}),
        "leave the rest of the restricted profile",
    ),
    "escalation": (
        worker(securityContext={"allowPrivilegeEscalation": True}),
        "leave the rest of the restricted profile",
    ),
    "a writable root": (
        worker(securityContext={"readOnlyRootFilesystem": False}),
        "leave the rest of the restricted profile",
    ),
    "root in an init container": (
        {"spec": {"initContainers": [{"name": "i", "securityContext": {"runAsUser": 0}}]}},
        "leave the rest of the restricted profile",
    ),
    "proc mount": (worker(securityContext={"procMount": "Unmasked"}), "leave the rest of the restricted profile"),
    "unconfined by annotation": (
        {"metadata": {"annotations": {"container.apparmor.security.beta.kubernetes.io/worker": "unconfined"}}},
        "an AppArmor profile is not accepted",
    ),
    "hostPath": (volume(hostPath={"path": "/"}), "is not accepted; write one of: configMap"),
    "inline nfs": (volume(nfs={"server": "s", "path": "/"}), "is not accepted; write one of: configMap"),
    "inline iscsi": (volume(iscsi={}), "is not accepted; write one of: configMap"),
    "a port of the host": (worker(ports=[{"containerPort": 80, "hostPort": 80}]), "a hostPort is not accepted"),
}
"""Refused where the operator judges by the restricted profile; where the namespace does, they are its own affair."""

GOOD: Final[dict[str, Template]] = {
    "nothing": {},
    "nulls": {"metadata": None, "spec": None},
    "nulls inside": {
        "spec": {
            "containers": None,
            "initContainers": None,
            "volumes": None,
            "tolerations": None,
            "securityContext": None,
            "hostNetwork": None,
            "hostname": None,
            "automountServiceAccountToken": None,
        }
    },
    "nulls in a container": worker(
        env=None, volumeMounts=None, resources=None, securityContext=None, ports=None, image=None, command=None
    ),
    "off": {"spec": {"hostNetwork": False, "automountServiceAccountToken": False, "shareProcessNamespace": False}},
    "users of one's own": {
        "spec": {
            "securityContext": {
                "runAsUser": 1001,
                "runAsGroup": 1001,
                "fsGroup": 1001,
                "supplementalGroups": [2000, 2001],
                "fsGroupChangePolicy": "Always",
            }
        }
    },
    "no user": {"spec": {"securityContext": {"runAsUser": None, "runAsGroup": None, "fsGroup": None}}},
    "what is set anyway": {
        "spec": {
            "securityContext": {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}},
            "containers": [
                {
                    "name": "worker",
                    "securityContext": {
                        "runAsUser": 5,
                        "privileged": False,
                        "allowPrivilegeEscalation": False,
                        "capabilities": {"drop": ["ALL"]},
                        "readOnlyRootFilesystem": True,
                        "runAsNonRoot": True,
                    },
                }
            ],
        }
    },
    "a token for somebody else": token(audience="sts.amazonaws.com", path="t"),
    "a token for Vault": token(audience="vault", path="t"),
    "a token for a federation": token(
        audience="//iam.googleapis.com/projects/1/locations/global/workloadIdentityPools/p/providers/k8s", path="t"
    ),
    "a mount beside the token's path": worker(
        volumeMounts=[{"name": "v", "mountPath": "/var/run/secrets/eks.amazonaws.com/serviceaccount"}]
    ),
    "a certificate of one's own signer": volume(
        projected={"sources": [{"podCertificate": {"signerName": "example.com/x", "keyType": "ED25519"}}]}
    ),
    "a secret by reference": worker(
        env=[{"name": "HF_TOKEN", "valueFrom": {"secretKeyRef": {"name": "hf", "key": "token"}}}]
    ),
    "a secret's name without a value": worker(env=[{"name": "HF_TOKEN"}, {"name": "AWS_SESSION_TOKEN", "value": ""}]),
    "no secret": worker(
        env=[
            {"name": "AWS_WEB_IDENTITY_TOKEN_FILE", "value": "/var/run/t"},
            {"name": "AZURE_CLIENT_ID", "value": "x"},
            {"name": "PAD_TOKEN", "value": "<pad>"},
            {"name": "URL", "value": "http://host:80/a@b:c"},
            {"name": "HTTP_PROXY", "value": "http://me:$(PASSWORD)@proxy"},
        ]
    ),
    "claims": {
        "spec": {
            "resourceClaims": [{"name": "gpu", "resourceClaimTemplateName": "one"}],
            "containers": [{"name": "worker", "resources": {"claims": [{"name": "gpu"}], "limits": {"cpu": 1}}}],
        }
    },
    "volumes": {
        "spec": {
            "volumes": [
                {"name": "a", "persistentVolumeClaim": {"claimName": "a"}},
                {"name": "b", "emptyDir": {"medium": "Memory", "sizeLimit": "1Gi"}},
                {"name": "c", "projected": {"sources": [{"secret": {"name": "s"}}]}},
            ]
        }
    },
    "more containers": {
        "spec": {
            "containers": [{"name": "log", "image": "l", "command": ["x"], "args": ["y"], "ports": [{"name": "p"}]}],
            "initContainers": [{"name": "fetch", "image": "f"}],
        }
    },
    "cloud identity": {
        "metadata": {"labels": {"azure.workload.identity/use": "true"}, "annotations": {"a": "b"}},
        "spec": {"serviceAccountName": "trainer"},
    },
}
"""Accepted everywhere."""

BAD_URLS: Final[dict[str, tuple[str, str]]] = {
    "chained": ("simplecache::s3://b/x", "chained URLs are not accepted"),
    "no protocol": ("bucket/x", "write"),
    "a key and its secret": (f"s3://key:{SECRET}@b/x", "holds credentials"),
    "a user alone": ("s3://me@b/x", "holds credentials"),
    "an account's key": (f"az://c:{SECRET}@account/x", "holds credentials"),
    "a signature": (f"az://c/x?sig={SECRET}", "holds a space or one of ?"),
    "a version": ("s3://b/x?versionId=1", "holds a space or one of ?"),
    "a space": ("s3://b/my run", "holds a space or one of ?"),
    "a glob": ("s3://b/*", "holds a space or one of ?"),
    "a backslash": ("s3://b/x\\y", "holds a space or one of ?"),
    "a fragment": ("s3://b/x#y", "holds a space or one of ?"),
    "up": ("s3://b/../x", "is not a plain URL"),
    "up at the end": ("s3://b/x/..", "is not a plain URL"),
    "a bucket alone": ("s3://b", "names no path in a bucket"),
    "a bucket with a slash": ("s3://b/", "names no path in a bucket"),
    "relative": ("file://relative/x", "names no absolute path"),
    "the root": ("file:///", "names no absolute path"),
    "the pod's own path": ("file:///tmp/x", "a path of the pod's own file system is gone with the pod"),
}
GOOD_URLS: Final = (
    "s3://b/x", "s3://b//x/", "gs://b/run/step=1000", "az://c/x", "abfs://c@account.dfs.core.windows.net/x",
    "s3://b/a..b", "s3://b/user@host/x",
)  # fmt: skip
BAD_OPTIONS: Final[dict[str, tuple[str, dict[str, Any], str]]] = {
    "of another protocol": ("gs://b/x", {"region": "eu"}, "is"),
    "of a file": ("file:///data/x", {"anon": True}, "is"),
    "account of s3": ("s3://b/x", {"accountName": "a"}, "is"),
    "project of az": ("az://c/x", {"project": "a"}, "is"),
    "no address": ("s3://b/x", {"endpointUrl": "minio:9000"}, "is not an address"),
    **{
        f"a host of {what}": ("s3://b/x", {"endpointUrl": f"http://{host}:80/x"}, "is not an address")
        for what, host in (
            ("other dots", "169\u3002254\u3002169\u3002254"),
            ("wide digits", "\uff11\uff16\uff19.254.169.254"),
            ("digits in circles", "\u2460\u2465\u2468.254.169.254"),
            ("a long s", "in\u017ftance-data"),
            ("a letter in a circle", "\u24dcetadata.google.internal"),
            ("percents", "%31%36%39.254.169.254"),
            ("a blank", "a b"),
        )
    },
    "another scheme": ("s3://b/x", {"endpointUrl": "ftp://minio"}, "is not an address"),
    "a password": ("s3://b/x", {"endpointUrl": f"http://u:{SECRET}@h"}, "holds credentials"),
    "a proxy's password": ("s3://b/x", {"proxyUrl": f"http://u:{SECRET}@h"}, "holds credentials"),
    **{
        f"{name} {host}": ("s3://b/x", {name: f"http://{host}"}, "link-local and metadata addresses are refused")
        for name, host in (
            ("endpointUrl", "169.254.169.254"),
            ("endpointUrl", "169.254.170.2:80"),
            ("endpointUrl", "169.254.169.254."),
            ("endpointUrl", "2852039166"),
            ("endpointUrl", "0xa9.0xfe.0xa9.0xfe"),
            ("endpointUrl", "0xa9fea9fe"),
            ("endpointUrl", "169.254.43518"),
            ("endpointUrl", "0251.0376.0251.0376"),
            ("endpointUrl", "[::ffff:169.254.169.254]"),
            ("endpointUrl", "[::ffff:a9fe:a9fe]"),
            ("endpointUrl", "[64:ff9b::169.254.169.254]"),
            ("endpointUrl", "[64:FF9B::a9fe:aa02]"),
            ("endpointUrl", "[64:ff9b::6464:64c8]"),
            ("endpointUrl", "[64:ff9b:1::a9fe:a9fe]"),
            ("endpointUrl", "[2002:a9fe:a9fe::1]"),
            ("endpointUrl", "[2002:a83f:8110::]"),
            ("endpointUrl", "[::169.254.169.254]"),
            ("endpointUrl", "[::ffff:0:a9fe:a9fe]"),
            ("endpointUrl", "[2001:0:1:2:3:4:5601:5601]"),
            ("endpointUrl", "[fe80::1%25eth0]"),
            ("endpointUrl", "[FE80::1]"),
            ("endpointUrl", "metadata.google.internal"),
            ("endpointUrl", "METADATA.google.internal."),
            ("endpointUrl", "0.0.0.0"),  # noqa: S104 - an address to refuse
            ("endpointUrl", "[::]"),
            ("endpointUrl", "224.0.0.1"),
            ("endpointUrl", "100.100.100.200"),
            ("endpointUrl", "168.63.129.16"),
            ("proxyUrl", "[fd00:ec2::254]"),
            ("proxyUrl", "[fd00:ec2:0:0::254]:80"),
            ("proxyUrl", "[fd00:ec2::23]"),
            ("proxyUrl", "[fd20:ce::254]"),
        )
    },
}
GOOD_OPTIONS: Final[dict[str, tuple[str, dict[str, Any]]]] = {
    "loopback": ("s3://b/x", {"endpointUrl": "http://127.0.0.1:9000"}),
    "loopback of IPv6": ("s3://b/x", {"endpointUrl": "http://[::1]:7070"}),
    "a name": ("s3://b/x", {"endpointUrl": "https://s3.example.com/", "region": "eu", "anon": True}),
    "a name with a dot": ("s3://b/x", {"endpointUrl": "https://s3.example.com.:9000"}),
    "a Service": ("az://c/x", {"endpointUrl": "http://azurite:10000/devstore", "accountName": "devstore"}),
    "a private address": ("gs://b/x", {"endpointUrl": "HTTP://10.0.0.5:80", "project": "p"}),
    "an address of IPv6": ("s3://b/x", {"endpointUrl": "http://[fd00::5]:80", "proxyUrl": "http://proxy:3128"}),
    "an address of IPv4 behind NAT64": ("s3://b/x", {"endpointUrl": "http://[64:ff9b::10.0.0.5]:80"}),
    "an address of IPv4 behind 6to4": ("s3://b/x", {"endpointUrl": "http://[2002:a00:5::1]:80"}),
    "a name that begins with digits": ("s3://b/x", {"endpointUrl": "http://3com.example.com"}),
}
