"""The checkpoint format: names of files, the manifest, `.metadata`, digests, and pickles that are read safely."""
