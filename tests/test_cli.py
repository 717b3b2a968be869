"""`dcp` without running a rank: what is refused, what is rehearsed, what is validated."""

import importlib.util
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner, Result

from dcp_operator.cli import app

SAVE = """
apiVersion: dcp-operator.io/v1alpha1
kind: Checkpoint
metadata: {name: one}
spec:
  operation: Save
  storage: {url: "s3://bucket/run", overwrite: true}
  workload: {entrypoint: "gpt:Workload"}
  workers: {numNodes: 2, numProcPerNode: 4}
"""


def dcp(*arguments: str, stdin: str = "") -> Result:
    return CliRunner().invoke(app, list(arguments), input=stdin)


BAD = {
    "unknown field": ("overwrite: true", "overwite: true", "overwite: unknown field; did you mean overwrite?"),
    "chained URL": ("s3://bucket/run", "simplecache::s3://bucket/run", "spec.storage.url: chained URLs"),
    "protocol": ("s3://bucket/run", "ftp://bucket/run", "spec.storage.url: protocol 'ftp' is not allowed"),
    "relative path": ("s3://bucket/run", "file://run", "spec.storage.url: names no absolute path"),
    "secret": ("overwrite: true", "options: {secret: hunter2}", "spec.storage.options.secret: looks like a secret"),
    "too few ranks": (
        "workers:",
        "parallelism: {strategy: hsdp, replicate: 16}\n  workers:",
        "spec.parallelism.replicate: 16 replica groups need at least 32 ranks",
    ),
    "no workload": ('  workload: {entrypoint: "gpt:Workload"}\n', "", "spec.workload: is missing"),
    "entrypoint": ("gpt:Workload", "gpt.Workload", "spec.workload.entrypoint: "),
    "wrong type": ("overwrite: true", 'overwrite: "yes"', "spec.storage.overwrite: has the wrong type"),
    "operation": ("operation: Save", "operation: Sve", "spec.operation: "),
    "namespace": ("{name: one}", "{name: one, namespace: 5}", "metadata.namespace: has the wrong type"),
    "labels": ("{name: one}", "{name: one, labels: [x]}", "metadata.labels: has the wrong type; write a mapping"),
    "created": ("{name: one}", "{name: one, creationTimestamp: now}", "metadata.creationTimestamp: has the wrong type"),
    "generation": ("{name: one}", "{name: one, generation: x}", "metadata.generation: has the wrong type"),
    "environment": (
        "numNodes: 2,",
        "podTemplate: {spec: {containers: [{name: worker, env: [{name: [A], value: x}]}]}},",
        "spec.workers.podTemplate.spec.containers[0].env[0].name: has the wrong type",
    ),
    "no spec": (SAVE.partition("spec:")[2], " {}", "spec."),
}


@pytest.mark.parametrize("command", ["run", "validate"])
@pytest.mark.parametrize(("old", "new", "said"), BAD.values(), ids=BAD.keys())
def test_bad_input_gets_one_line_each_and_exit_code_2(command: str, old: str, new: str, said: str) -> None:
    assert old in SAVE
    result = dcp(command, "-f", "-", stdin=SAVE.replace(old, new))
    assert result.exit_code == 2
    assert result.stdout == ""
    lines = result.stderr.splitlines()
    assert any(said in line for line in lines), result.stderr
    assert all(line.startswith("standard input, document 1: ") for line in lines)
    assert "hunter2" not in result.stderr


def test_nothing_runs_if_one_of_the_files_is_bad(tmp_path: Path) -> None:
    good = tmp_path / "good.yaml"
    good.write_text(SAVE)
    result = dcp("run", "-f", str(good), "-f", str(tmp_path / "absent.yaml"))
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr == f"{tmp_path}/absent.yaml: No such file or directory\n"


@pytest.mark.parametrize("arguments", [["run"], ["run", "-f", "-", "-o", "xml"], ["verify"], ["runn"]])
def test_a_wrong_command_line_is_usage_and_exit_code_2(arguments: list[str]) -> None:
    result = dcp(*arguments)
    assert result.exit_code == 2
    assert "Usage: " in result.stderr


def test_a_rehearsal_lists_what_would_run_and_runs_nothing() -> None:
    result = dcp("run", "-f", "-", "--rehearse", stdin=SAVE)
    assert result.exit_code == 0, result.stderr
    header, row = result.stdout.splitlines()
    assert header.split() == ["Name", "Operation", "Ranks", "Strategy", "Device", "Overwrite", "Entrypoint", "URL"]
    assert row.split() == ["one", "Save", "8", "(2x4)", "fsdp2", "auto", "true", "gpt:Workload", "s3://bucket/run"]


@pytest.mark.parametrize(("form", "read"), [("json", json.loads), ("yaml", yaml.safe_load)])
def test_a_rehearsal_is_printed_as_asked_for(form: str, read: Callable[[str], Any]) -> None:
    result = dcp("run", "-f", "-", "--rehearse", "-o", form, stdin=SAVE)
    assert (result.exit_code, read(result.stdout)) == (0, yaml.safe_load(SAVE))


@pytest.mark.parametrize("command", ["inspect", "verify"])
def test_results_about_a_url_come_as_json_too(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    became: list[list[str]] = []
    monkeypatch.setattr(os, "execv", lambda _, arguments: became.append(arguments))
    dcp(command, "file:///x/run", "-o", "json")
    assert became == [[sys.executable, "-m", "dcp_worker", command, "file:///x/run", "-o", "json"]]


def test_valid_manifests_are_named() -> None:
    result = dcp("validate", "-f", "-", stdin=SAVE + "---\napiVersion: v1\nkind: Namespace\nmetadata: {name: x}\n")
    assert result.exit_code == 0
    assert result.stdout == "standard input, document 1: Checkpoint one is valid\n"
    assert result.stderr.startswith("standard input, document 2: Namespace left out")


def test_a_path_of_this_machine_is_valid_for_run_but_not_for_a_cluster() -> None:
    manifest = SAVE.replace("s3://bucket/run", "file:///checkpoints/run")
    assert dcp("validate", "--local", "-f", "-", stdin=manifest).exit_code == 0
    result = dcp("validate", "-f", "-", stdin=manifest)
    assert result.exit_code == 2
    assert "mount a volume" in result.stderr


def test_a_url_that_is_no_store_is_refused_before_torch_is_loaded() -> None:
    for command, url, said in (
        ("inspect", "ftp://host/run", "URL: protocol 'ftp' is not allowed"),
        ("verify", "runs/step-1000", f"URL: has no protocol; write file://{Path.cwd()}/runs/step-1000"),
        ("inspect", "../ckpt", f"URL: has no protocol; write file://{Path.cwd().parent}/ckpt"),
        ("inspect", "simplecache::s3://bucket/run", "URL: chained URLs are not accepted"),
    ):
        result = dcp(command, url)
        assert (result.exit_code, result.stdout) == (2, "")
        assert result.stderr.startswith(said)


@pytest.mark.parametrize("command", [("inspect", "file:///x/run"), ("verify", "file:///x/run"), ("run", "-f", "-")])
def test_without_the_worker_extra_one_line_says_how_to_get_it(
    command: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: None)
    result = dcp(*command, stdin=SAVE)
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr == "torch and fsspec missing; install the worker extra: pip install 'dcp-operator[worker]'\n"


def test_help_says_how_entrypoints_are_found_and_which_exit_codes_there_are() -> None:
    text = " ".join(dcp("run", "--help").stdout.split())
    assert "imported as by" in text
    assert "PYTHONPATH" in text
