"""Checkpoints that stock DCP saved: no sizes, no digests; what can be known of their files all the same."""

import dataclasses

from dcp_engine.format import layout
from dcp_engine.format.manifest import UNKNOWN, Manifest
from dcp_engine.stores.protocol import Store


def sized(store: Store, manifest: Manifest) -> Manifest:
    """Return a stock checkpoint's manifest with its files' sizes, from a listing; UNKNOWN for one that is missing."""
    there = {entry.path: entry.size for entry in store.list("")}
    files = tuple(dataclasses.replace(file, size=there.get(file.path, UNKNOWN)) for file in manifest.files)
    return dataclasses.replace(manifest, files=files)


def data_files(manifest: Manifest) -> list[str]:
    """Return the data files that a stock checkpoint names; nothing that a stock writer would not write."""
    return sorted(file.path for file in manifest.files if layout.is_stock_file(file.path))
