"""What files may hold, and what is said about those that can't be read."""

import base64
import json
from pathlib import Path
from typing import Any

import pytest

from dcp_operator.api.site import CLUSTER, LOCAL
from dcp_operator.local import documents
from dcp_operator.local.documents import InputError
from series_scenes import series_manifest

SAVE = """
apiVersion: dcp-operator.io/v1alpha1
kind: Checkpoint
metadata: {name: NAME}
spec:
  operation: Save
  storage: {url: s3://bucket/run, credentialsSecretRef: {name: s3}}
  workload: {entrypoint: gpt:Workload}
"""


def save(name: str = "one") -> str:
    return SAVE.replace("NAME", name)


def written(folder: Path, *texts: str) -> list[str]:
    paths = [folder / f"{index}.yaml" for index in range(len(texts))]
    for path, text in zip(paths, texts, strict=True):
        path.write_text(text)
    return [str(path) for path in paths]


def names(files: list[str]) -> list[str]:
    return [source.checkpoint.name for source in documents.read(files, LOCAL).checkpoints]


def test_checkpoints_come_in_the_order_of_files_and_documents(tmp_path: Path) -> None:
    first, second = written(tmp_path, f"{save('b')}---\n{save('a')}", f"---\n---\n{save('c')}---\n")
    assert names([second, first]) == ["c", "b", "a"]
    assert names([str(tmp_path)]) == ["b", "a", "c"]


def test_a_list_and_json_are_read(tmp_path: Path) -> None:
    body = {"apiVersion": "dcp-operator.io/v1alpha1", "kind": "Checkpoint", "metadata": {"name": "one"}}
    body["spec"] = {"operation": "Verify", "storage": {"url": "s3://bucket/run"}}
    path = tmp_path / "list.json"
    path.write_text(json.dumps({"apiVersion": "v1", "kind": "List", "items": [body]}))
    assert names([str(path)]) == ["one"]


def test_other_kinds_are_left_out_with_a_note(tmp_path: Path) -> None:
    files = written(tmp_path, f"{save()}---\napiVersion: v1\nkind: Namespace\nmetadata: {{name: x}}\n")
    assert documents.read(files, LOCAL).notes == [
        f"{files[0]}, document 2: Namespace left out, only Checkpoint and Secret are used here"
    ]


def test_a_series_is_checked_and_is_no_checkpoint_to_run(tmp_path: Path) -> None:
    text = json.dumps(series_manifest())
    found = documents.read(written(tmp_path, text), CLUSTER)
    assert ([each.series.name for each in found.series], found.checkpoints) == (["nightly"], [])
    with pytest.raises(InputError, match=r"CheckpointSeries team/nightly stands in .* already"):
        documents.read(written(tmp_path, f"{text}\n---\n{text}"), CLUSTER)
    template: dict[str, Any] = {"spec": {"nodeSelektor": {}}}
    wrong = json.dumps(series_manifest({"spec.template.spec.workers.podTemplate": template}))
    with pytest.raises(InputError, match=r"spec\.template\.spec\.workers\.podTemplate\.spec\.nodeSelektor: "):
        documents.read(written(tmp_path, wrong), CLUSTER)
    wrong = json.dumps(series_manifest({"spec.every": "0s"}))
    with pytest.raises(InputError, match=r"document 1: spec\.every: is no time between two runs"):
        documents.read(written(tmp_path, wrong), CLUSTER)


@pytest.mark.adversary
def test_a_secret_in_the_files_becomes_the_environment_of_its_checkpoint_alone(tmp_path: Path) -> None:
    key = base64.b64encode(b"from data").decode()
    secret = (
        "apiVersion: v1\nkind: Secret\nmetadata: {name: s3, namespace: default}\n"
        f"data: {{AWS_ACCESS_KEY_ID: {key}, AWS_SECRET_ACCESS_KEY: {key}, unrelated: {key}, ca.crt: {key}}}\n"
        "stringData: {AWS_SECRET_ACCESS_KEY: from stringData}\n"
    )
    found = documents.read(written(tmp_path, save(), secret), LOCAL)
    (source,) = found.checkpoints
    assert documents.credentials(source.checkpoint, found.secrets) == {
        "AWS_ACCESS_KEY_ID": "from data",
        "AWS_SECRET_ACCESS_KEY": "from stringData",
        "DCP_CA_CERT": "from data",
    }
    assert documents.credentials(source.checkpoint, {}) is None
    assert "from data" not in repr(found)


BAD = {
    "syntax error": ("a: [1, 2\nb: 3", ", document 1, line 2: "),
    "syntax error in the second document": (save() + "---\na: b: c\n", ", document 2, line "),
    "a tab": ("a:\n\tb: 1", ", document 1, line 2: "),
    "not text": ("\udcff", ": not UTF-8 text"),
    "a control character": ("a: \x01", ", document 1: "),
    "a list": ("- 1\n- 2\n", ", document 1: not a Kubernetes object but a list"),
    "a word": ("hello", ", document 1: not a Kubernetes object but a str"),
    "a key twice": (save() + "spec: {}\n", ", document 1, line 9: 'spec' stands here twice"),
    "an unknown tag": ("a: !!python/object:os.system {}", ", document 1, line 1: could not determine a constructor"),
    "a recursive alias": ("a: &a [*a]", ", document 1, line 1: found unconstructable recursive node"),
    "not a number": ("a: .nan", ", document 1: holds what JSON has no word for: "),
    "binary": ("a: !!binary aGVsbG8=", ", document 1: holds what JSON has no word for: "),
    "nested too deeply": ("[" * 5000, ", document 1: nested too deeply"),
    "nothing": ("", "no Checkpoint in "),
    "no kind": ("metadata: {name: x}", ", document 1: not a Kubernetes object: apiVersion and kind must be set"),
    "another version": (
        save().replace("v1alpha1", "v1"),
        ", document 1: apiVersion dcp-operator.io/v1, kind Checkpoint is not known; write dcp-operator.io/v1alpha1, ",
    ),
    "another kind": (save().replace("Checkpoint", "Chekpoint"), "v1alpha1, kind Chekpoint is not known; write dcp-op"),
    "another group": (save().replace("dcp-operator.io", "ckpt.io"), ", document 1: apiVersion ckpt.io/v1alpha1, kind "),
    "the same name twice": (save() + "---" + save(), ", document 2: Checkpoint default/one stands in "),
    "no name": (save().replace("{name: NAME}", "{}").replace("{name: one}", "{}"), ", document 1: metadata.name"),
    "an unknown field": (save() + "  operaton: Save\n", "did you mean operation?"),
    "a secret that is not base64": (
        "apiVersion: v1\nkind: Secret\nmetadata: {name: s3}\ndata: {AWS_ACCESS_KEY_ID: hunter2}",
        ", document 1: data.AWS_ACCESS_KEY_ID must be base64",
    ),
}


@pytest.mark.parametrize(("text", "said"), BAD.values(), ids=BAD.keys())
def test_what_is_wrong_is_said_in_one_line_with_file_and_document(text: str, said: str, tmp_path: Path) -> None:
    path = tmp_path / "bad.yaml"
    path.write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(InputError) as caught:
        documents.read([str(path)], LOCAL)
    (problem,) = caught.value.problems
    assert said in problem
    assert str(path) in problem
    assert "\n" not in problem
    assert "hunter2" not in problem


def test_all_problems_of_all_files_are_said_at_once(tmp_path: Path) -> None:
    files = [*written(tmp_path, "a: b: c", save().replace("Save", "Save!"), save()), str(tmp_path / "absent.yaml")]
    with pytest.raises(InputError) as caught:
        documents.read(files, LOCAL)
    assert len(caught.value.problems) == 3
    assert caught.value.problems[2] == f"{tmp_path}/absent.yaml: No such file or directory"


def test_a_folder_without_manifests_is_said(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no \.yaml, \.yml, \.json file in this folder"):
        documents.read([str(tmp_path)], LOCAL)


@pytest.mark.adversary
@pytest.mark.parametrize(
    ("prefix", "beginning"),
    [
        pytest.param("nightly-", "nightly-", id="O S3-11: as usual"),
        pytest.param("1000-", "1000-", id="O S3-11: a digit first"),
        pytest.param("a" * 70, "a" * 58, id="O S3-11: longer than a name"),
    ],
)
def test_a_name_is_made_of_generate_name_as_an_api_server_does(prefix: str, beginning: str, tmp_path: Path) -> None:
    text = save().replace("name: one", f'generateName: "{prefix}"')
    first, second = names(written(tmp_path, text, text))
    assert first != second
    assert {each[:-5] for each in (first, second)} == {beginning}
    assert len(first) <= 63
    (source, _) = documents.read(written(tmp_path, text, text), CLUSTER).checkpoints
    assert source.title == f"{prefix}..."


@pytest.mark.adversary
def test_a_name_wins_over_generate_name(tmp_path: Path) -> None:
    text = save().replace("name: one", "name: one, generateName: x-")
    (source,) = documents.read(written(tmp_path, text), LOCAL).checkpoints
    assert (source.checkpoint.name, source.title) == ("one", "one")


@pytest.mark.adversary
@pytest.mark.parametrize("prefix", ["Nightly-", "-x", "a.b-", "a b"])
def test_a_generate_name_that_begins_no_label(prefix: str, tmp_path: Path) -> None:
    text = save().replace("name: one", f'generateName: "{prefix}"')
    with pytest.raises(InputError, match="generateName: begins a label; write a-z"):
        documents.read(written(tmp_path, text), LOCAL)


def test_authorities_of_their_own_come_without_credentials(tmp_path: Path) -> None:
    secret = "---\napiVersion: v1\nkind: Secret\nmetadata: {name: ca}\nstringData: {ca.crt: PEM}\n"
    text = save().replace("credentialsSecretRef: {name: s3}", "caSecretRef: {name: ca}")
    found = documents.read(written(tmp_path, text + secret), LOCAL)
    (source,) = found.checkpoints
    assert documents.authorities(source.checkpoint, found.secrets) == {"DCP_CA_CERT": "PEM"}
    assert documents.credentials(source.checkpoint, found.secrets) is None


def test_a_date_stays_text(tmp_path: Path) -> None:
    files = written(tmp_path, save().replace("gpt:Workload", "gpt:Workload, args: {since: 2026-01-01}"))
    (source,) = documents.read(files, LOCAL).checkpoints
    assert source.checkpoint.spec.workload is not None
    assert source.checkpoint.spec.workload.args == {"since": "2026-01-01"}
