"""What the operator's benchmark writes: a plain asyncio client, and the objects of a Checkpoint's life."""

import asyncio
import json
import ssl
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import aiohttp

from dcp_operator.api.naming import job_name

Body = dict[str, Any]
GROUP = "dcp-operator.io/v1alpha1"
PLURALS = {
    "Namespace": "namespaces",
    "ServiceAccount": "serviceaccounts",
    "Checkpoint": "checkpoints",
    "Service": "services",
    "Job": "jobs",
    "Pod": "pods",
}

MERGE = {"Content-Type": "application/merge-patch+json"}
METADATA_ONLY = {"Accept": "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1"}


@dataclass
class Created:
    """When the Jobs of a namespace were first seen, by the Checkpoint's name."""

    times: dict[str, float] = field(default_factory=dict)
    changed: asyncio.Condition = field(default_factory=asyncio.Condition)

    async def count(self, wanted: int) -> None:
        async with self.changed, asyncio.timeout(300):
            await self.changed.wait_for(lambda: len(self.times) >= wanted)


@dataclass(frozen=True)
class Client:
    """One session with the API server."""

    session: aiohttp.ClientSession

    @classmethod
    @asynccontextmanager
    async def connect(cls, kubeconfig: Path) -> AsyncIterator[Self]:
        config = json.loads(kubeconfig.read_text())  # noqa: ASYNC240 - once, before anything is timed
        where = config["clusters"][0]["cluster"]
        context = ssl.create_default_context(cafile=where["certificate-authority"])
        headers = {"Authorization": f"Bearer {config['users'][0]['user']['token']}"}
        connector = aiohttp.TCPConnector(limit=64, ssl=context)
        async with aiohttp.ClientSession(where["server"], connector=connector, headers=headers) as session:
            yield cls(session)

    async def send(
        self, method: str, path: str, body: Body | None = None, headers: dict[str, str] | None = None
    ) -> Body:
        async with self.session.request(method, path, json=body, headers=headers) as answer:
            found: Body = await answer.json()
            if answer.status >= 400:
                raise RuntimeError(f"{method} {path}: {found.get('message')}")
            return found

    async def create(self, body: Body) -> Body:
        return await self.send(
            "POST", path(body["apiVersion"], PLURALS[body["kind"]], body["metadata"].get("namespace")), body
        )

    async def write_status(self, body: Body, status: Body) -> Body:
        metadata = body["metadata"]
        where = f"{path(body['apiVersion'], PLURALS[body['kind']], metadata['namespace'])}/{metadata['name']}/status"
        return await self.send("PUT", where, {**body, "status": status})

    async def namespace(self, name: str) -> None:
        await self.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
        account = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default", "namespace": name}}
        await self.create(account)

    async def clear(self, namespace: str) -> None:
        """Delete the Checkpoints of a namespace."""
        await self.send("DELETE", path(GROUP, "checkpoints", namespace))

    async def every(self, version: str, plural: str, namespace: str) -> list[Body]:
        items: list[Body] = (await self.send("GET", path(version, plural, namespace)))["items"]
        kind = next(kind for kind, known in PLURALS.items() if known == plural)
        return [{"apiVersion": version, "kind": kind, **item} for item in items]

    async def until_phase(self, namespace: str, phase: str, count: int, seconds: float = 60) -> None:
        """Wait until so many Checkpoints are in the phase."""
        deadline = time.monotonic() + seconds
        while True:
            phases = [
                (each.get("status") or {}).get("phase") for each in await self.every(GROUP, "checkpoints", namespace)
            ]
            if phases.count(phase) >= count:
                return
            if time.monotonic() > deadline:
                raise TimeoutError(f"{count} Checkpoints in phase {phase}; instead {Counter(phases)}")
            await asyncio.sleep(0.5)

    async def until_status(self, namespace: str, count: int) -> None:
        await self.until_phase(namespace, "Starting", count)

    async def start_pods(self, job: Body) -> list[Body]:
        """Create the Job's two pods, and say that they run."""
        made = []
        for index in (0, 1):
            pod = await self.create(running_pod(job, index))
            made.append(await self.write_status(pod, pod_status("Running", {"running": {"startedAt": now()}})))
        return made

    async def finish_pod(self, pod: Body) -> None:
        """End a pod with its Report."""
        index = pod["metadata"]["labels"]["batch.kubernetes.io/job-completion-index"]
        where = f"{path('v1', 'pods', pod['metadata']['namespace'])}/{pod['metadata']['name']}/status"
        await self.send("PATCH", where, {"status": ended_pod_status(index)}, MERGE)

    async def finish_job(self, job: Body) -> None:
        """Call a Job Complete."""
        where = f"{path('batch/v1', 'jobs', job['metadata']['namespace'])}/{job['metadata']['name']}/status"
        conditions = [
            {"type": kind, "status": "True", "lastProbeTime": now(), "lastTransitionTime": now()}
            for kind in ("SuccessCriteriaMet", "Complete")
        ]
        status = {
            "startTime": job["metadata"]["creationTimestamp"],
            "completionTime": now(),
            "succeeded": 2,
            "ready": 0,
            "completedIndexes": "0,1",
            "conditions": conditions,
        }
        await self.send("PATCH", where, {"status": status}, MERGE)

    @asynccontextmanager
    async def watch_jobs(self, namespace: str) -> AsyncIterator[Created]:
        """Note when Jobs appear from now on."""
        where = path("batch/v1", "jobs", namespace)
        version = (await self.send("GET", where))["metadata"]["resourceVersion"]
        created = Created()
        task = asyncio.create_task(self._watch(f"{where}?watch=true&resourceVersion={version}", created))
        try:
            yield created
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def _watch(self, where: str, created: Created) -> None:
        timeout = aiohttp.ClientTimeout(total=None)
        async with self.session.get(where, headers=METADATA_ONLY, timeout=timeout) as answer:
            async for line in answer.content:
                event = json.loads(line)
                if event["type"] != "ADDED":
                    continue
                name = event["object"]["metadata"]["labels"]["dcp-operator.io/checkpoint"]
                async with created.changed:
                    created.times.setdefault(name, time.monotonic())
                    created.changed.notify_all()


def now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


def path(version: str, plural: str, namespace: str | None = None) -> str:
    root = "/apis/" if "/" in version else "/api/"
    return "/".join([root + version, *(("namespaces", namespace) if namespace else ()), plural])


def checkpoint(name: str, namespace: str) -> Body:
    """A Save by two pods, such as a user applies."""
    return {
        "apiVersion": GROUP,
        "kind": "Checkpoint",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {
            "operation": "Save",
            "save": {"steps": 1},
            "storage": {
                "url": f"s3://bucket/{namespace}/{name}",
                "options": {"endpointUrl": "https://s3.example.com", "region": "us-east-1"},
                "credentialsSecretRef": {"name": "s3"},
            },
            "workload": {"entrypoint": "gpt:Workload", "args": {"size": "125M"}},
            "workers": {"numNodes": 2, "numProcPerNode": 8, "device": "cuda"},
        },
    }


def plain_service(name: str, namespace: str) -> Body:
    spec = {"clusterIP": "None", "selector": {"job": name}, "ports": [{"port": 29500}]}
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name, "namespace": namespace},
        "spec": spec,
    }


def owner(body: Body) -> Body:
    """The reference that makes an object another's."""
    named = {key: body["metadata"][key] for key in ("name", "uid")}
    return {key: body[key] for key in ("apiVersion", "kind")} | named | {"controller": True}


def plain_job(name: str, namespace: str, labels: dict[str, str] | None = None) -> Body:
    """An Indexed Job of about the operator's size."""
    environment = [{"name": f"VARIABLE_{number}", "value": "x" * 40} for number in range(20)]
    container = {"name": "worker", "image": "worker", "command": ["python", "-m", "dcp_worker"], "env": environment}
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": name, "namespace": namespace, "labels": labels or {"dcp-operator.io/checkpoint": name}},
        "spec": {
            "completionMode": "Indexed",
            "completions": 2,
            "parallelism": 2,
            "backoffLimitPerIndex": 0,
            "template": {
                "metadata": {"labels": labels or {}},
                "spec": {"restartPolicy": "Never", "containers": [container]},
            },
        },
    }


def running_pod(job: Body, index: int) -> Body:
    """A pod as the Job controller makes it from the Job's template."""
    template = job["spec"]["template"]
    labels = (template["metadata"].get("labels") or {}) | {
        "batch.kubernetes.io/job-completion-index": str(index),
        "dcp-operator.io/job": job["metadata"]["name"],
    }
    spec = {
        **template["spec"],
        "nodeName": "node",
        "volumes": [],
        "containers": [dict(template["spec"]["containers"][0])],
    }
    spec["containers"][0].pop("volumeMounts", None)
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": f"{job['metadata']['name']}-{index}",
            "namespace": job["metadata"]["namespace"],
            "labels": labels,
            "ownerReferences": [owner(job)],
        },
        "spec": spec,
    }


def pod_status(phase: str, state: Body) -> Body:
    container = {
        "name": "worker",
        "image": "worker",
        "imageID": "worker",
        "ready": False,
        "restartCount": 0,
        "state": state,
    }
    conditions = [{"type": "PodScheduled", "status": "True", "lastTransitionTime": now()}]
    return {
        "phase": phase,
        "conditions": conditions,
        "containerStatuses": [container],
        "hostIP": "10.0.0.1",
        "podIP": "10.0.1.1",
    }


def ended_pod_status(index: str) -> Body:
    report: Body = {"node": int(index)}
    if index == "0":
        info = {"url": "s3://bucket/x", "saveId": "0123456789abcdef", "step": 1, "bytes": 1_500_000_000}
        report |= {"result": "Saved", "checkpoint": {**info, "files": 16, "tensors": 400, "worldSize": 16}}
        report |= {"bytesMoved": 1_500_000_000, "seconds": 12.5}
    ended = {"exitCode": 0, "reason": "Completed", "startedAt": now(), "finishedAt": now()}
    return pod_status("Succeeded", {"terminated": {**ended, "message": json.dumps(report)}})


async def finished_checkpoint(client: Client, name: str, namespace: str) -> Body:
    """Make a finished Checkpoint with its Job; return the Job."""
    body = await client.create(checkpoint(name, namespace))
    uid = body["metadata"]["uid"]
    attempt = job_name(name, uid, "", 1)
    labels = {
        "app.kubernetes.io/managed-by": "dcp-operator",
        "dcp-operator.io/checkpoint": name,
        "dcp-operator.io/owner-uid": uid,
        "dcp-operator.io/attempt": "1",
        "dcp-operator.io/job": attempt,
    }
    await client.write_status(body, finished_status(name, attempt))
    job = plain_job(attempt, namespace, labels)
    job["metadata"]["ownerReferences"] = [owner(body)]
    return await client.create(job)


def finished_status(name: str, attempt: str) -> Body:
    message = "Saved step 1: 1.4 GiB in 16 files, saved by 16 ranks. It took 1m12s."
    true = {"Ready", "Complete"}
    conditions = [
        {
            "type": kind,
            "status": "True" if kind in true else "False",
            "reason": "Saved",
            "message": message if kind in true else "",
            "lastTransitionTime": now(),
            "observedGeneration": 1,
        }
        for kind in ("Ready", "Reconciling", "Stalled", "Complete", "Failed", "Suspended")
    ]
    return {
        "observedGeneration": 1,
        "phase": "Succeeded",
        "reason": "Saved",
        "conditions": conditions,
        "startTime": now(),
        "completionTime": now(),
        "durationSeconds": 72,
        "attempts": 1,
        "retries": {"lastEnded": 1},
        "size": "1.4 GiB",
        "duration": "1m12s",
        "ranks": "16 (2x8)",
        "checkpoint": {
            "url": f"s3://bucket/full/{name}",
            "saveId": "0123456789abcdef",
            "step": 1,
            "bytes": 1_500_000_000,
        },
        "jobRef": {"name": attempt},
    }
