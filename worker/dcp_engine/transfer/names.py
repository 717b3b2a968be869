"""Why what is asked for is not in a checkpoint, by the names alone: which are near, and what sets them apart. Pure."""

import difflib
import re
from collections.abc import Collection, Iterable
from itertools import islice
from typing import Final

from dcp_engine.errors import some

_WRAPPERS: Final = {
    "_orig_mod": "torch.compile",
    "module": "DistributedDataParallel",
    "_checkpoint_wrapped_module": "activation checkpointing",
    "_fsdp_wrapped_module": "FSDP1",
    "base_layer": "LoRA",
}
"""What puts a part of its own into names -> who does."""
_RANK: Final = re.compile(r"(rank[\W_]?)\d+(?:[\W_]?of[\W_]?\d+)?", re.IGNORECASE)
_ADAPTER: Final = re.compile(r"(?:^|\.)lora_")
_EXPLAINED: Final = 3
_COMPARED: Final = 2000
"""Names that one is compared with: each costs some microseconds."""


def missing(names: Collection[str], asked: Collection[str], there: Collection[str], saved_by: int | None) -> str:
    """Return a message for names that the checkpoint has not.

    Args:
        names: those that are missing.
        asked: all that are asked for.
        there: all that the checkpoint has.
        saved_by: the number of ranks that saved it, if that is known.
    """
    unused = [name for name in there if name not in asked]
    parts = [
        f"the checkpoint does not hold {some(names)}",
        _wrapped(names, unused) or _by_rank(names, unused, saved_by) or _adapters(names) or _near(names, unused),
    ]
    return ". ".join(filter(None, parts))


def _wrapped(names: Iterable[str], unused: Iterable[str]) -> str:
    plain = {_plain(name): name for name in unused}
    pairs = [(name, plain[_plain(name)]) for name in sorted(names) if _plain(name) in plain]
    if not pairs:
        return ""
    name, found = pairs[0]
    apart = {*name.split(".")} ^ {*found.split(".")}
    who = ", ".join(f"`{part}.` ({_WRAPPERS[part]})" for part in sorted(apart & _WRAPPERS.keys()))
    return (
        f"It holds {len(pairs)} of them under names that differ by {who}: {name} is {found}. Save and load the module "
        "inside the wrapper, or take both state dicts from torch's get_model_state_dict, and rename in the state dict "
        "what still differs"
    )


def _plain(name: str) -> str:
    return ".".join(part for part in name.split(".") if part not in _WRAPPERS)


def _by_rank(names: Iterable[str], unused: Iterable[str], saved_by: int | None) -> str:
    alike: dict[str, str] = {}
    for name in unused:
        alike.setdefault(_RANK.sub(r"\1", name), name)
    pairs = [(name, found) for name in sorted(names) if (found := alike.get(_RANK.sub(r"\1", name)))]
    if not pairs:
        return ""
    by = f"{saved_by} rank{'s' * (saved_by != 1)} saved it" if saved_by else "another number of ranks saved it"
    return (
        f"Its names say the rank, as {pairs[0][1]} does, and {by}. Load it on as many ranks, leave these out, or use "
        "dcp_engine.per_rank, which can keep what is here"
    )


def _adapters(names: Collection[str]) -> str:
    adapters = [name for name in names if _ADAPTER.search(name)]
    if not adapters:
        return ""
    return (
        f"LoRA adapters are among them ({len(adapters)}), which it was saved without: load it before they are added, "
        "or leave them out of the state dict"
    )


def _near(names: Collection[str], unused: Collection[str]) -> str:
    found = []
    for name in sorted(names)[:_EXPLAINED]:
        last = name.rpartition(".")[2]
        same = [*islice((each for each in unused if each.rpartition(".")[2] == last), _COMPARED)]
        near = difflib.get_close_matches(name, same or [*islice(unused, _COMPARED)], n=1, cutoff=0.5)
        found += [f"{near[0]} for {name}"] if near else []
    return f"The nearest that it holds: {', '.join(found)}" if found else ""
