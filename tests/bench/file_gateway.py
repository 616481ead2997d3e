"""The gateway with a folder in the place of its bucket, to be held against receivers of files.

    python -m tests.bench.file_gateway FOLDER

The server, the policy and the C-STORE service are the gateway's own; no other service is there,
and no table of nodes.
"""

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from gateway.__main__ import offers
from gateway.acceptance import AccessPolicy
from gateway.association import Limits
from gateway.command_set import CommandField
from gateway.custody import Buffered, Custody
from gateway.ports import Ports
from gateway.server import Server
from gateway.storage import StorageService

_AET: Final = "LENTICULAR"
_MAX_ASSOCIATIONS: Final = 128
_MEMORY_BYTES: Final = 16 << 20


class FolderCustody(Custody):
    """Writes a file for each instance, as storescp does: without waiting for the disk."""

    def __init__(self, folder: Path) -> None:
        """Write into a folder that is there."""
        self._scratch_dir = None
        self._folder = folder

    def keep(self, key: str, file: Buffered | bytearray, metadata: Mapping[str, str]) -> bool:  # noqa: ARG002 - a file has nowhere to keep it
        """Write a file under the SHA-256 that the key ends with."""
        with (self._folder / key.rpartition("/")[2]).open("xb", buffering=0) as out:
            out.write(file)
        return True


def main() -> None:
    """Serve on a free port of this machine until the process is ended."""
    storage = StorageService(FolderCustody(Path(sys.argv[1])), memory_bytes=_MEMORY_BYTES)
    server = Server(
        Ports.open("127.0.0.1", 0),
        acceptance=AccessPolicy(
            ae_title=_AET, access="open", find_node=lambda _aet: None, offers=offers()
        ),
        services={CommandField.C_STORE_RQ: storage},
        limits=Limits(max_associations=_MAX_ASSOCIATIONS),
    )
    ready = {"event": "ready", "aet": _AET, "port": server.address[1]}
    print(json.dumps(ready), flush=True)
    server.serve()


if __name__ == "__main__":
    main()
