"""Nodes files as an operator writes them, of peers on this machine."""

from collections.abc import Mapping
from pathlib import Path

import yaml


def nodes_file(folder: Path, nodes: Mapping[str, int | Mapping[str, object]]) -> Path:
    """Write a nodes file: by AE title, a node's port, or whatever of its entry is to be said."""
    entries = [
        {
            "aet": aet,
            "address": "127.0.0.1",
            **({"port": entry} if isinstance(entry, int) else entry),
        }
        for aet, entry in nodes.items()
    ]
    path = folder / "nodes.yaml"
    path.write_text(yaml.safe_dump({"nodes": entries}))
    return path
