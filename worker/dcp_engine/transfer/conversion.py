"""Which conversions a load makes between the types that were saved and those that are asked for. Pure.

A rounding is a conversion; a value that becomes another one is none. torch's `copy_` makes a fraction an integer, wraps
what does not fit, and clips at the largest number that there is, each without a word.
"""

import torch

from dcp_engine.errors import StateMismatch
from dcp_engine.transfer.payload import PIECE, rows


def can_convert(there: torch.dtype, wanted: torch.dtype) -> bool:
    """Tell whether values of one type can be those of the other at all: no fraction to integers, no number to bools."""
    return torch.can_cast(there, wanted)


def copy(name: str, source: torch.Tensor, target: torch.Tensor) -> None:
    """Copy values into a tensor of the same shape, converted to its type.

    Raises:
        StateMismatch: the types can't be converted, or a value would become another one; `target` is as it was.
    """
    check(name, source, target.dtype)
    with torch.inference_mode(target.is_inference()):  # which holds for one thread, and this is not its caller's
        target.copy_(source)


def check(name: str, source: torch.Tensor, wanted: torch.dtype) -> None:
    """Refuse values on the CPU that the wanted type can't hold, but for rounding."""
    if source.dtype == wanted or _widens(source.dtype, wanted):
        return
    if not can_convert(source.dtype, wanted):
        raise StateMismatch.not_convertible([f"{name} ({short(source.dtype)} to {short(wanted)})"])
    for part in rows(source, PIECE):
        lost = _lost(part, wanted)
        if lost is not None:
            raise StateMismatch(
                f"{name}: the checkpoint holds {lost} as {short(source.dtype)}, which {short(wanted)} can't hold"
            )


def short(dtype: torch.dtype | None) -> str:
    """Return a type as `float32`, without the module."""
    return str(dtype).removeprefix("torch.")


def _widens(there: torch.dtype, wanted: torch.dtype) -> bool:
    """Tell whether every value of one type is a value of the other."""
    if there == torch.bool:
        return True
    if there.is_complex != wanted.is_complex:
        return False
    if there.is_floating_point or there.is_complex:
        if not (wanted.is_floating_point or wanted.is_complex):
            return False
        one, other = torch.finfo(there), torch.finfo(wanted)
        return other.max >= one.max and other.eps <= one.eps and other.tiny <= one.tiny and other.min <= one.min
    if wanted.is_floating_point or wanted.is_complex or wanted == torch.bool:
        return False
    narrow, wide = torch.iinfo(there), torch.iinfo(wanted)
    return wide.min <= narrow.min and narrow.max <= wide.max


def _lost(part: torch.Tensor, wanted: torch.dtype) -> object | None:
    """Return the first value that would become another one, or None."""
    if wanted.is_complex and part.is_complex():
        part, wanted = torch.view_as_real(part.resolve_conj().resolve_neg()), wanted.to_real()
    elif wanted.is_complex:
        wanted = wanted.to_real()
    back = part.to(wanted)
    if wanted.is_floating_point:
        before, after = part.to(torch.float64), back.to(torch.float64)
        limits = torch.finfo(wanted)
        near = (after - before).abs() <= before.abs() * (limits.eps / 2) + limits.tiny
        wrong = ~((near & before.isfinite()) | (before == after) | (before.isnan() & after.isnan()))
    else:
        wrong = (back.to(torch.int64) != part.to(torch.int64)) | (_negative(back) != _negative(part))
    if not wrong.any():
        return None
    return part.flatten()[wrong.flatten().nonzero()[0, 0]].item()


def _negative(values: torch.Tensor) -> torch.Tensor:
    """Tell which are negative; a uint64 is not, whatever it is as an int64."""
    if not values.dtype.is_signed:
        return torch.zeros(values.shape, dtype=torch.bool)
    return values < 0
