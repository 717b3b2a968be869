"""What is known of the checkpoint at a URL, who saved it, and who holds a URL that was refused."""

from dcp_contract.message import Int, MaybeCount, Text, Time, Wire


class Origin(Wire):
    """Which Checkpoint object made a save; stands in the manifest, so that a save can be recognised as one's own."""

    namespace: Text = ""
    name: Text = ""
    uid: Text = ""
    run_id: Text = ""

    def made(self, other: "Origin | None") -> bool:
        """Tell whether this very run made the save of that origin; a run without a uid can't be told from another."""
        return bool(self.uid) and other == self

    def __str__(self) -> str:
        """Return `namespace/name (uid ...)`, or a word for a save that no Checkpoint object made."""
        if not self.name:
            return "a save outside Kubernetes"
        run = f", run {self.run_id}" if self.run_id else ""
        return f"Checkpoint {self.namespace}/{self.name} (uid {self.uid}{run})"


class LoadSummary(Wire):
    """What a load made of the checkpoint's entries, over all ranks; an entry is one name of the state dict."""

    loaded: Int = 0
    left_out: Int = 0
    """Entries of the checkpoint that no rank asked for."""
    converted: Int = 0
    """Entries among the loaded whose values got another type."""


class CheckpointInfo(Wire):
    """What stands at the URL, as far as it is known. `bytes` counts data files; `createdTime` is UTC."""

    url: Text = ""
    save_id: Text = ""
    step: MaybeCount = None
    bytes: MaybeCount = None
    files: MaybeCount = None
    tensors: MaybeCount = None
    world_size: MaybeCount = None
    torch_version: Text = ""
    manifest_digest: Text = ""
    created_time: Time = None
    origin: Origin | None = None
    conflict_guard: Text = ""
    """`Atomic` where the store itself refuses a second commit, else `BestEffort`."""
    verified: Text = ""
    """After a Verify: what was checked, in words."""
    entries: LoadSummary | None = None
    """After a Load: how many entries were loaded, left out and converted."""


class Conflict(Wire):
    """Who holds the URL that a Save was refused."""

    # The order counts: where the time or the message of one that was cut has begun, what comes before it is whole.
    save_id: Text = ""
    origin: Origin | None = None
    created_time: Time = None
    message: Text = ""
