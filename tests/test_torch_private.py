"""One module alone touches torch's private names."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

WORKER = Path(__file__).parent.parent / "worker"
PRIVATE_HERE = WORKER / "dcp_engine/torch_internals.py"


_NAME = re.compile(r"torch(\.\w+)+")


def _is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__")


def _touched(source: str) -> Iterator[str]:
    """Give the private names of torch that a module imports, reaches through `torch`, or overrides by `getattr`."""
    tree = ast.parse(source)
    torches = {"torch"}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "torch":
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            yield from (name for name in names if any(map(_is_private, name.split("."))))
            torches.update(alias.asname or alias.name for alias in node.names)
        if isinstance(node, ast.Import):
            ours = [alias for alias in node.names if alias.name.split(".")[0] == "torch"]
            yield from (alias.name for alias in ours if any(map(_is_private, alias.name.split("."))))
            torches.update(alias.asname for alias in ours if alias.asname)
    for node in ast.walk(tree):
        match node:
            case ast.Attribute(attr=name) if _is_private(name) and _root(node) in torches:
                yield ast.unparse(node)
            case ast.Call(func=ast.Name(id="getattr" | "setattr"), args=[of, ast.Constant(value=str(name)), *_]) if (
                _is_private(name) and _root(of) in torches
            ):
                yield f"{ast.unparse(of)}.{name}"
            case ast.Constant(value=str(name)) if _NAME.fullmatch(name) and any(map(_is_private, name.split("."))):
                yield name


def _root(node: ast.expr) -> str:
    while isinstance(node, ast.Attribute):
        node = node.value
    return node.id if isinstance(node, ast.Name) else ""


OWN_AND_OTHERS = {
    "accelerator._custom_objects": "accelerate's: what its own save_state saves",
    "accelerator._dataloaders": "accelerate's, likewise",
    "accelerator._models": "accelerate's, likewise",
    "accelerator._optimizers": "accelerate's, likewise",
    "accelerator._schedulers": "accelerate's, likewise",
    "atexit._run_exitfuncs": "runs what was registered, without the end of the process",
    "BaseProcess._bootstrap": "the frame in which multiprocessing runs a child",
    "copyreg._slotnames": "the attributes of a class with __slots__, as pickle finds them",
    "handle._run": "an AsyncSave, by the function that makes it",
    "os._exit": "the documented name",
    "part._split": "a Read of the same class",
    "self._fs._parent": "fsspec's",
    "sys._current_frames": "the documented name",
    "sys._getframe": "the documented name",
    "threading._register_atexit": "as concurrent.futures does",
    "call._call_callbacks_state_dict": "Lightning's: what its own checkpoint holds of callbacks",
    "connector._loaded_checkpoint": "Lightning's: what its restoring reads",
    "loop._combined_loader": "Lightning's: the loaders of its training",
    "loop._combined_loader._load_state_dicts": "Lightning's",
    "loop._data_fetcher": "Lightning's: the iterator over them",
    "trainer._checkpoint_connector": "Lightning's: what dumps and restores its checkpoints",
    "trainer._checkpoint_connector._get_loops_state_dict": "Lightning's",
    "trainer._signal_connector": "Lightning's handlers of signals",
    "trainer._signal_connector._original_handlers": "Lightning's, likewise",
    "trainer._load_from_checkpoint": "transformers': how its Trainer loads the weights of a folder",
}
"""Private names of other objects than `self` that stand in the worker and the engine: none is torch's."""


BY_NAME = {
    "dcp_engine/sandboxed/entries.py": "names in the pickles of strangers; nothing is imported by them",
    "dcp_worker/launcher/rank_processes.py": "torch._dynamo, which the server of the ranks imports early",
}
"""Modules that hold a private name of torch as text."""


def _modules() -> list[Path]:
    return [
        path
        for name in ("dcp_agent", "dcp_engine", "dcp_worker")
        for path in sorted((WORKER / name).rglob("*.py"))
        if path != PRIVATE_HERE
    ]


@pytest.mark.parametrize("path", _modules(), ids=lambda path: str(path.relative_to(WORKER)))
def test_no_other_module_touches_a_private_name_of_torch(path: Path) -> None:
    found = set(_touched(path.read_text()))
    assert bool(found) is (path.relative_to(WORKER).as_posix() in BY_NAME)
    assert not found or found <= set(re.findall(r'"(torch\.[\w.]+)"', path.read_text()))


def test_every_private_attribute_of_another_object_is_known_not_to_be_torchs() -> None:
    found = set()
    for path in _modules():
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Attribute) and _is_private(node.attr):
                of = ast.unparse(node.value)
                if of not in {"self", "cls", "super()"}:
                    found.add(f"{of}.{node.attr}")
    assert found <= OWN_AND_OTHERS.keys()


@pytest.mark.parametrize(
    ("source", "named"),
    [
        ("from torch._utils import a", ["torch._utils.a"]),
        ("from torch.utils import _pytree", ["torch.utils._pytree"]),
        ("import torch._dynamo", ["torch._dynamo"]),
        ("import torch\ntorch._utils.a()", ["torch._utils"]),
        ("from torch import distributed as dist\ndist._x.b", ["dist._x"]),
        ("import torch\ngetattr(torch.utils, '_pytree')", ["torch.utils._pytree"]),
        ("import_module('torch._dynamo')", ["torch._dynamo"]),
        ("'torch.utils.data'\ngetattr(other, '_x')", []),
        ("from torch.utils import data\nfrom other import _x\n_x._y", []),
    ],
)
def test_the_check_sees_each_way_to_a_private_name(source: str, named: list[str]) -> None:
    assert list(_touched(source)) == named
