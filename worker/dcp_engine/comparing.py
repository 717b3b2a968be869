"""`diff`: in which entries two checkpoints differ, and by how much. One process, on the CPU, no model."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from os import PathLike, fspath
from typing import Any, Final

import torch

from dcp_engine import inspection, loading
from dcp_engine.errors import CheckpointReplaced, StateMismatch, some
from dcp_engine.format.key_mapping import chooses
from dcp_engine.format.manifest import Manifest, Tensor
from dcp_engine.stores.protocol import MEMORY_LIMIT

AT_ONCE: Final = 256 << 20
"""Bytes of each checkpoint that are in memory at once, or one tensor if it is larger."""
_ELEMENTS: Final = 1 << 20
"""Compared at once: as float64 they take more room than they had."""
_SHOWN: Final = 60


@dataclass(frozen=True)
class EntryChange:
    """An entry that both checkpoints have, and that is another one in the second."""

    first: str
    """What it is in the first: type and shape of a tensor, or the value of an object, cut short."""
    second: str
    elements: int = 0
    """Elements that were compared; 0 where the shapes differ, and for an object."""
    differing: int = 0
    """How many of them have another value. Two that are no number (NaN) are alike, and so are 0.0 and -0.0."""
    largest: float | None = None
    """The largest absolute difference of two values, in float64; None where all that differ are infinite or NaN."""
    relative: float | None = None
    """The L2 norm of the finite differences, divided by that of the first's finite values; None where that is 0."""


@dataclass(frozen=True)
class Difference:
    """How two checkpoints differ; false if they do not."""

    only_first: tuple[str, ...]
    only_second: tuple[str, ...]
    changed: Mapping[str, EntryChange]
    same: int
    """How many entries are alike."""

    def __bool__(self) -> bool:
        """Return whether there is any."""
        return bool(self.only_first or self.only_second or self.changed)


def diff(
    first: str | PathLike[str],
    second: str | PathLike[str],
    *,
    keys: Sequence[str] = (),
    storage_options: Mapping[str, Any] | None = None,
    allow: Sequence[type] = (),
    memory_limit: int = MEMORY_LIMIT,
) -> Difference:
    """Compare two checkpoints by the values of their entries, however each is sharded. Not collective: one process.

    Every byte that is read is compared with its digest. In memory is the larger of 256 MiB and the largest tensor, of
    each of the two, beside `memory_limit`.

    Args:
        first: where the one stands: an fsspec URL or a path.
        second: where the other one stands.
        keys: which entries are compared, by DCP's names: `model` and all below it, `model.layers.0.weight`, or a glob
            such as `*.weight`; all if there are none.
        storage_options: options of both stores that are no secret, by their neutral names
            (`dcp_contract.storage_options.STORAGE_OPTIONS`). Secrets come from the environment.
        allow: classes, beyond the common ones, that entries which are no tensors may hold; each runs what it likes.
        memory_limit: bytes that may be held for transfers.

    Returns:
        What only one of them has, and what has another type, shape or value in the second.

    Raises:
        StateMismatch: a key chooses nothing in either.
        CheckpointReplaced: one of them was replaced meanwhile.
        EngineError: another subclass per cause, as of `load`.
    """
    options: dict[str, Any] = {"storage_options": storage_options}
    sides = [_Side(fspath(url), inspection.inspect(url, **options)) for url in (first, second)]
    globs = (keys,) if isinstance(keys, str) else tuple(keys)
    names = [{name for name in side.manifest.tensors if _chosen(globs, name)} for side in sides]
    if idle := [glob for glob in globs if not any(chooses(glob, name) for name in names[0] | names[1])]:
        raise StateMismatch(f"keys: nothing in either checkpoint is chosen by {some(idle)}")
    options |= {"allow": allow, "memory_limit": memory_limit}
    changed: dict[str, EntryChange] = {}
    for group in _groups(sorted(names[0] & names[1]), sides):
        ones, others = (side.read(group, options) for side in sides)
        for name in group:
            if change := _change(sides, name, ones.pop(name, None), others.pop(name, None)):
                changed[name] = change
    return Difference(
        only_first=tuple(sorted(names[0] - names[1])),
        only_second=tuple(sorted(names[1] - names[0])),
        changed=changed,
        same=len(names[0] & names[1]) - len(changed),
    )


@dataclass(frozen=True)
class _Side:
    """One of the two."""

    url: str
    manifest: Manifest

    def read(self, names: Sequence[str], options: Mapping[str, Any]) -> dict[str, Any]:
        """Return entries by name; raise CheckpointReplaced if they are another save's than the manifest."""
        entries = {name: self.manifest.tensors[name] for name in names}
        state = {name: _room(entry) for name, entry in entries.items()}
        found = loading.load(state, self.url, no_dist=True, **options)
        if found.save_id != self.manifest.save_id:
            raise CheckpointReplaced(self.url, self.manifest.save_id)
        return state


def _room(entry: Tensor) -> torch.Tensor | None:
    return torch.empty(entry.shape, dtype=getattr(torch, entry.dtype)) if entry.dtype is not None else None


def _chosen(globs: Sequence[str], name: str) -> bool:
    return not globs or any(chooses(glob, name) for glob in globs)


def _groups(names: Sequence[str], sides: Sequence[_Side]) -> Iterator[list[str]]:
    """Yield names whose values are read together: those of which both checkpoints have the same shape, or an object."""
    group: list[str] = []
    taken = 0
    for name in names:
        entries = [side.manifest.tensors[name] for side in sides]
        size = max(sum(chunk.length for chunk in entry.chunks) for entry in entries)
        if group and taken + size > AT_ONCE:
            yield group
            group, taken = [], 0
        group.append(name)
        taken += size
    if group:
        yield group


def _change(sides: Sequence[_Side], name: str, first: object, second: object) -> EntryChange | None:
    """Return how an entry changed; None where it did not."""
    entries = [side.manifest.tensors[name] for side in sides]
    if not isinstance(first, torch.Tensor) or not isinstance(second, torch.Tensor):
        return None if _alike(first, second) else EntryChange(_shown(entries[0], first), _shown(entries[1], second))
    one, other = (_shown(entry, None) for entry in entries)
    if first.shape != second.shape:
        return EntryChange(one, other)
    measured = _measured(first, second)
    retyped = first.dtype != second.dtype
    return EntryChange(one, other, first.numel(), *measured) if measured[0] or retyped else None


def _shown(entry: Tensor, value: object) -> str:
    if entry.dtype is not None:
        return f"{entry.dtype} {'x'.join(map(str, entry.shape)) or 'scalar'}"
    told = repr(value)
    return told if len(told) <= _SHOWN else f"{told[: _SHOWN - 3]}..."


def _measured(first: torch.Tensor, second: torch.Tensor) -> tuple[int, float | None, float | None]:
    """Return how many elements of two tensors of one shape differ, the largest difference, and the relative one."""
    differing, largest, squares, norm = 0, None, 0.0, 0.0
    for one, other in zip(_pieces(first), _pieces(second), strict=True):
        if one.dtype == other.dtype and torch.equal(one.view(torch.uint8), other.view(torch.uint8)):
            norm += _square(_wide(one))
            continue
        wide, second_wide = _wide(one), _wide(other)
        unlike, apart = _apart(one, other, wide, second_wide)
        apart = apart[apart.isfinite()]
        differing += int(unlike.sum())
        norm += _square(wide)
        if apart.numel():
            largest = max(largest or 0.0, float(apart.max()))
            squares += _square(apart)
    return differing, largest, (squares / norm) ** 0.5 if norm else None


def _apart(
    one: torch.Tensor, other: torch.Tensor, wide: torch.Tensor, second_wide: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return which elements have unlike values, and how far those are apart."""
    if one.dtype != other.dtype or one.dtype.is_floating_point or one.dtype.is_complex:
        unlike = (wide != second_wide) & ~(wide.isnan() & second_wide.isnan())
        return unlike, (wide - second_wide)[unlike].abs()
    unlike = one != other
    far = (wide - second_wide)[unlike].abs()
    # float64 has not every integer, and a difference of two int64 may be none: each is right where the other is not.
    near = (one[unlike].to(torch.int64) - other[unlike].to(torch.int64)).abs().to(torch.float64)
    return unlike, torch.where(far < 2.0**52, near, far)


def _pieces(tensor: torch.Tensor) -> tuple[torch.Tensor, ...]:
    flat = tensor.detach().contiguous().reshape(-1)
    # torch computes nothing with types of which one element is two values: their bytes are compared.
    return torch.split(flat.view(torch.uint8) if str(flat.dtype).endswith("_x2") else flat, _ELEMENTS)


def _wide(piece: torch.Tensor) -> torch.Tensor:
    return piece.to(torch.complex128 if piece.dtype.is_complex else torch.float64)


def _square(wide: torch.Tensor) -> float:
    absolute = wide.abs()
    return float(absolute[absolute.isfinite()].square().sum())


def _alike(first: Any, second: Any) -> bool:  # noqa: ANN401 - whatever a checkpoint holds
    """Return whether two objects are equal, and of one class; what can't be compared is not."""
    if type(first) is not type(second):
        return False
    if isinstance(first, torch.Tensor):
        return first.shape == second.shape and first.dtype == second.dtype and not _measured(first, second)[0]
    if isinstance(first, Mapping):
        return first.keys() == second.keys() and all(_alike(first[key], second[key]) for key in first)
    if isinstance(first, list | tuple):
        return len(first) == len(second) and all(map(_alike, first, second))
    try:
        return bool((first == second).all() if hasattr(first, "all") else first == second)
    except Exception:  # noqa: BLE001 - a class's own comparison may raise anything
        return False
