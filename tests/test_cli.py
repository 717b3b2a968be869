"""`dcp` without running a rank: what is refused, what is rehearsed, what is validated."""

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner, Result

from dcp_operator.cli.app import app

SAVE = """
apiVersion: dcp-operator.io/v1alpha1
kind: Checkpoint
metadata: {name: one}
spec:
  operation: Save
  save: {ifExists: Replace}
  storage: {url: "s3://bucket/run", options: {}}
  workload: {entrypoint: "gpt:Workload"}
  workers: {numNodes: 2, numProcPerNode: 4}
"""


def dcp(*arguments: str, stdin: str = "") -> Result:
    return CliRunner().invoke(app, list(arguments), input=stdin)


BAD = {
    "unknown field": ("ifExists:", "ifExist:", "spec.save.ifExist: unknown field; did you mean ifExists?"),
    "chained URL": ("s3://bucket/run", "simplecache::s3://bucket/run", "spec.storage.url: chained URLs"),
    "protocol": ("s3://bucket/run", "ftp://bucket/run", "spec.storage.url: protocol 'ftp' is not allowed"),
    "relative path": ("s3://bucket/run", "file://run", "spec.storage.url: names no absolute path"),
    "secret": ("options: {}", "options: {secret: hunter2}", "spec.storage.options.secret: looks like a secret"),
    "too few ranks": (
        "workers:",
        "parallelism: {strategy: hsdp, replicate: 16}\n  workers:",
        "spec.parallelism.replicate: 16 replica groups need at least 32 ranks",
    ),
    "no workload": ('  workload: {entrypoint: "gpt:Workload"}\n', "", "spec.workload: is missing"),
    "entrypoint": ("gpt:Workload", "gpt.Workload", "spec.workload.entrypoint: "),
    "wrong type": ("ifExists: Replace", "steps: '1'", "spec.save.steps: has the wrong type; write a whole number"),
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
    assert header.split() == ["Name", "Operation", "Ranks", "Strategy", "Device", "IfExists", "Entrypoint", "URL"]
    assert row.split() == ["one", "Save", "8", "(2x4)", "fsdp2", "auto", "Replace", "gpt:Workload", "s3://bucket/run"]


@pytest.mark.parametrize(("form", "read"), [("json", json.loads), ("yaml", yaml.safe_load)])
def test_a_rehearsal_is_printed_as_asked_for(form: str, read: Callable[[str], Any]) -> None:
    result = dcp("run", "-f", "-", "--rehearse", "-o", form, stdin=SAVE)
    assert (result.exit_code, read(result.stdout)) == (0, yaml.safe_load(SAVE))


PASSED_ON = {
    "ls": ("ls x -o json", "ls file://{here}/x -o json"),
    "diff": ("diff x s3://b/y -k model -k *.bias", "diff file://{here}/x s3://b/y --key model --key *.bias -o table"),
    "rm": ("rm x --save-id 12 -y", "rm file://{here}/x --save-id 12 --yes"),
    "rm, which asks": ("rm x", "rm file://{here}/x"),
    "inspect": ("inspect file:///x/run -o json", "inspect file:///x/run -o json"),
    "verify": ("verify file:///x/run -o json", "verify file:///x/run -o json"),
}


@pytest.mark.parametrize(("typed", "passed_on"), PASSED_ON.values(), ids=PASSED_ON)
def test_what_is_asked_of_a_url_is_passed_on(typed: str, passed_on: str, monkeypatch: pytest.MonkeyPatch) -> None:
    became: list[list[str]] = []
    monkeypatch.setattr(os, "execv", lambda _, arguments: became.append(arguments))
    dcp(*typed.split())
    assert became == [[sys.executable, "-P", "-m", "dcp_worker", *passed_on.format(here=Path.cwd()).split()]]


def test_a_copy_is_handed_on_with_its_options(monkeypatch: pytest.MonkeyPatch) -> None:
    became: list[list[str]] = []
    monkeypatch.setattr(os, "execv", lambda _, arguments: became.append(arguments))
    dcp("copy", "s3://bucket/a", "/b")
    dcp("copy", "/a", "s3://bucket/b", "--overwrite", "--no-verify", "--bandwidth", "1.5", "-o", "json")
    assert [arguments[4:] for arguments in became] == [
        ["copy", "s3://bucket/a", "file:///b", "--bandwidth", "0.0", "-o", "table"],
        ["copy", "file:///a", "s3://bucket/b", "--bandwidth", "1.5", "-o", "json", "--overwrite", "--no-verify"],
    ]


def test_an_export_is_handed_on_with_its_options(monkeypatch: pytest.MonkeyPatch) -> None:
    became: list[list[str]] = []
    monkeypatch.setattr(os, "execv", lambda _, arguments: became.append(arguments))
    dcp("export", "s3://bucket/a", "/b")
    dcp("export", "/a", "s3://bucket/b", "--dtype", "bfloat16", "--keys", "model.*=*", "--keys", "x=y", "--overwrite")
    assert [arguments[4:] for arguments in became] == [
        ["export", "s3://bucket/a", "file:///b", "--shard-bytes", "5000000000", "-o", "table"],
        [
            *("export", "file:///a", "s3://bucket/b", "--shard-bytes", "5000000000", "-o", "table"),
            *("--dtype", "bfloat16", "--keys", "model.*=*", "--keys", "x=y", "--overwrite"),
        ],
    ]


PATHS = {
    "absolute": ("/runs/step-1000", "file:///runs/step-1000"),
    "relative": ("runs/step-1000", "file://{here}/runs/step-1000"),
    "a folder up": ("../step-1000", "file://{above}/step-1000"),
    "here": (".", "file://{here}"),
    "with dots within": ("./runs/../step-1000/", "file://{here}/step-1000"),
    "at home": ("~/step-1000", "file:///home/alice/step-1000"),
    "of nobody": ("~nobody-at-all/step", "file://{here}/~nobody-at-all/step"),
    "with what markup has": ("[red]/step 1", "file://{here}/[red]/step 1"),
    "with a colon": ("step:1000", "file://{here}/step:1000"),
}


@pytest.mark.adversary
@pytest.mark.parametrize("command", ["inspect", "verify", "ls", "rm"])
@pytest.mark.parametrize(("path", "url"), PATHS.values(), ids=PATHS)
def test_a_plain_path_is_one_of_this_machine(
    command: str, path: str, url: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    became: list[list[str]] = []
    monkeypatch.setattr(os, "execv", lambda _, arguments: became.append(arguments))
    monkeypatch.setenv("HOME", "/home/alice")
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    dcp(command, path)
    assert [arguments[5] for arguments in became] == [url.format(here=here, above=tmp_path)]


@pytest.mark.tier("pods")
@pytest.mark.adversary
def test_nothing_of_the_folder_that_is_looked_at_runs(tmp_path: Path) -> None:
    (tmp_path / "gettext.py").write_text("import pathlib; pathlib.Path('ran').touch()")
    done = subprocess.run(
        [sys.executable, "-m", "dcp_operator.cli.app", "inspect", "."],
        cwd=tmp_path,
        env={**os.environ, "PYTHONSAFEPATH": "1"},  # of dcp itself: its script is not in this folder either
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1
    assert "CheckpointNotFound" in done.stderr, done.stderr
    assert not (tmp_path / "ran").exists()


@pytest.mark.adversary
def test_valid_manifests_are_named() -> None:
    result = dcp("validate", "-f", "-", stdin=SAVE + "---\napiVersion: v1\nkind: Namespace\nmetadata: {name: x}\n")
    assert result.exit_code == 0
    assert result.stdout == "standard input, document 1: Checkpoint one is valid for a cluster\n"
    assert result.stderr.startswith("standard input, document 2: Namespace left out")


@pytest.mark.adversary
def test_a_path_of_this_machine_is_valid_for_run_but_not_for_a_cluster() -> None:
    manifest = SAVE.replace("s3://bucket/run", "file:///checkpoints/run")
    valid = dcp("validate", "--local", "-f", "-", stdin=manifest)
    assert valid.stdout == "standard input, document 1: Checkpoint one is valid for `dcp run`\n"
    result = dcp("validate", "-f", "-", stdin=manifest)
    assert result.exit_code == 2
    assert "mount a volume" in result.stderr


@pytest.mark.adversary
def test_the_demos_manifest_is_valid_for_what_it_is_for() -> None:
    demo = str(Path(__file__).parent.parent / "examples" / "demo.yaml")
    assert dcp("validate", "--local", "-f", demo).exit_code == 0
    result = dcp("validate", "-f", demo)
    assert result.exit_code == 2
    assert result.stderr.splitlines()[-1] == (
        "That is for a cluster; `dcp run` takes these files: to check for that, add --local."
    )


def test_a_url_that_is_no_store_is_refused_before_torch_is_loaded() -> None:
    for command, url, said in (
        ("inspect", "ftp://host/run", "URL: protocol 'ftp' is not allowed"),
        ("verify", "s3:/bucket/run", "URL: has not two slashes after its protocol; write s3://bucket/run"),
        ("inspect", "gs:bucket", "URL: has not two slashes after its protocol; write gs://bucket"),
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
    assert result.stderr == "torch and obstore missing; install the worker extra: pip install 'dcp-operator[worker]'\n"


def test_help_says_how_entrypoints_are_found_and_which_exit_codes_there_are() -> None:
    text = " ".join(dcp("run", "--help").stdout.split())
    assert "imported from PYTHONPATH or an installed package, else from the current folder" in text
    assert "PYTHONPATH" in text
