"""The commit protocol: which checkpoint is committed at a URL, and how another takes its place."""
