"""Numbers and sentences as people read them, in messages and in the columns of `kubectl get`."""

from dcp_contract.checkpoint_info import LoadSummary
from dcp_contract.sections import Workers


def sentence(text: str) -> str:
    """Return the text with a full stop, so that another sentence can follow."""
    text = text.strip()
    return text if not text or text[-1] in ".!?…" else f"{text}."


def human_duration(seconds: int) -> str:
    """Return `12s`, `1m12s` or `3h05m`."""
    minutes, rest = divmod(seconds, 60)
    if minutes == 0:
        return f"{rest}s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h{minutes:02}m" if hours else f"{minutes}m{rest:02}s"


def counted(number: int, what: str) -> str:
    """Return `1 pod` or `2 pods`."""
    return f"{number} {what}{'' if number == 1 else 's'}"


def human_ranks(workers: Workers) -> str:
    """Return `16 (2x8)`: the world size, and pods x ranks per pod."""
    return f"{workers.world_size} ({workers.num_nodes}x{workers.num_proc_per_node})"


def human_entries(entries: LoadSummary) -> str:
    """Return `16 loaded, 8 left out, 2 converted`, without what is none."""
    rest = {"left out": entries.left_out, "converted": entries.converted}
    return ", ".join([f"{entries.loaded} loaded", *(f"{count} {what}" for what, count in rest.items() if count)])
