"""What GitOps tools make of a Checkpoint's conditions, by the scripts in manifests/examples/gitops."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from lupa import LuaRuntime

GITOPS = Path(__file__).parents[1] / "manifests/examples/gitops"


@pytest.mark.parametrize("kind", ["Checkpoint", "CheckpointSeries", "CheckpointStore"])
@pytest.mark.parametrize(
    ("conditions", "health"),
    [
        ({"Ready": "False", "Reconciling": "True"}, "Progressing"),
        ({"Ready": "True", "Complete": "True"}, "Healthy"),
        ({"Ready": "False", "Stalled": "True", "Failed": "True"}, "Degraded"),
        ({"Ready": "False", "Suspended": "True"}, "Suspended"),
    ],
)
def test_argo_cd_health(conditions: dict[str, str], health: str, kind: str) -> None:
    found: Any = yaml.safe_load((GITOPS / "argocd-health.yaml").read_text())
    script = found["data"][f"resource.customizations.health.dcp-operator.io_{kind}"]
    assert len(found["data"]) == 3
    lua = LuaRuntime()
    rows = [{"type": kind, "status": status, "message": "m"} for kind, status in conditions.items()]
    body = {"metadata": {"generation": 1}, "status": {"observedGeneration": 1, "conditions": rows}}
    lua.globals().obj = lua.table_from(body, recursive=True)
    assert lua.execute(script).status == health
