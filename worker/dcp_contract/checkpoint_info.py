"""What is known of the checkpoint at a URL, who saved it, and who holds a URL that was refused."""

from pydantic import Field

from dcp_contract.message import Int, MaybeCount, Text, Time, Wire


class Origin(Wire):
    """Which Checkpoint object made a save; stands in the manifest, so that a save can be recognised as one's own."""

    namespace: Text = Field(default="", description="Namespace of the Checkpoint that saved it.")
    name: Text = Field(default="", description="Name of the Checkpoint that saved it.")
    uid: Text = Field(default="", description="uid of the Checkpoint that saved it.")
    run_id: Text = Field(default="", description="spec.runId of the run that saved it.")

    def made(self, other: "Origin | None") -> bool:
        """Tell whether this very run made the save of that origin; a run without a uid can't be told from another."""
        return bool(self.uid) and other is not None and self.bare() == other.bare()

    def bare(self) -> "Origin":
        """Return the Origin alone, of a Provenance too."""
        return Origin(namespace=self.namespace, name=self.name, uid=self.uid, run_id=self.run_id)

    def __str__(self) -> str:
        """Return `namespace/name (uid ...)`, or a word for a save that no Checkpoint object made."""
        if not self.name:
            return "a save outside Kubernetes"
        run = f", run {self.run_id}" if self.run_id else ""
        return f"Checkpoint {self.namespace}/{self.name} (uid {self.uid}{run})"


class Provenance(Origin):
    """An Origin with what tells another object of the same name in another cluster, or with another spec, from it.

    Stands in the Task and in the manifest. A message whose field is an Origin leaves the rest out.
    """

    cluster_id: Text = Field(default="", description="Id of the cluster: uid of its namespace kube-system.")
    spec_digest: Text = Field(default="", description="Digest of what its spec says of what is saved.")


class LoadSummary(Wire):
    """What a load made of the checkpoint's entries, over all ranks; an entry is one name of the state dict."""

    loaded: Int = Field(default=0, description="Entries that were loaded.")
    left_out: Int = Field(default=0, description="Entries of the checkpoint that no rank asked for.")
    converted: Int = Field(default=0, description="Entries among the loaded whose values got another type.")


class StoreFacts(Wire):
    """What a store does, as it was tried out."""

    create_guard: Text = Field(
        default="", description="Atomic if the store refuses to create what is there already, else BestEffort."
    )
    replace_guard: Text = Field(
        default="", description="Atomic if the store refuses to replace what was changed meanwhile, else BestEffort."
    )
    versioning: Text = Field(default="", description="Enabled, Suspended or Disabled, where the store tells.")
    object_lock: Text = Field(default="", description="Enabled or Disabled, where the store tells.")


class CheckpointInfo(Wire):
    """What stands at the URL, as far as it is known. `bytes` counts data files; `createdTime` is UTC."""

    url: Text = Field(default="", description="Where the checkpoint stands.")
    save_id: Text = Field(
        default="", description="Id of the committed save; its folder is data-<id>. After an Export the export's id."
    )
    step: MaybeCount = Field(default=None, description="The training step that it was saved at.")
    bytes: MaybeCount = Field(default=None, description="Bytes of its data files.")
    files: MaybeCount = Field(default=None, description="How many data files it has.")
    tensors: MaybeCount = Field(default=None, description="How many tensors it holds.")
    world_size: MaybeCount = Field(default=None, description="How many ranks saved it.")
    torch_version: Text = Field(default="", description="The torch that saved it.")
    manifest_digest: Text = Field(default="", description="Digest of its manifest.")
    created_time: Time = Field(default=None, description="When it was committed, in UTC.")
    origin: Origin | None = Field(default=None, description="The Checkpoint that saved it.")
    conflict_guard: Text = Field(
        default="",
        description="Atomic if the store itself refuses a second commit, or a Delete of another save; else BestEffort.",
    )
    verified: Text = Field(default="", description="After a Verify or a Copy: what was checked, in words.")
    removed: Text = Field(
        default="",
        description="After a Clean: what was removed, or would be, in words; bytes and files are those of it.",
    )
    entries: LoadSummary | None = Field(
        default=None, description="After a Load: how many entries were loaded, left out and converted."
    )
    store: StoreFacts | None = Field(default=None, description="After a Validate: what the store does.")


class Conflict(Wire):
    """Who holds the URL that a Save was refused."""

    # The order counts: where the time or the message of one that was cut has begun, what comes before it is whole.
    save_id: Text = Field(default="", description="Id of the save that is committed at the URL.")
    origin: Origin | None = Field(default=None, description="The Checkpoint that holds the URL, if of this namespace.")
    created_time: Time = Field(default=None, description="When that save was committed, in UTC.")
    message: Text = Field(default="", description="What the worker says of the conflict.")
