"""Ports of this machine, for servers that cannot say which one they took."""

import itertools
import os
import socket
from typing import Final

#: The kernel gives 32768 and above to whoever connects or asks for port 0, as any other process may
#: at any moment; of what lies below, each process of the tests has a block of its own.
_FIRST: Final = 12_000
_BLOCK: Final = 1_000
_BLOCKS: Final = 20
_WORKER: Final = os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")
_START: Final = _FIRST + int(_WORKER) % _BLOCKS * _BLOCK
# Where in the block, by process: another run of the tests on this machine may be in the same one.
_numbers: Final = itertools.count(os.getpid())


def free_port() -> int:
    """Return a port that was free a moment ago, and that this process has not given out before.

    The same may come again when all the block has been given out.
    """
    for number in itertools.islice(_numbers, _BLOCK):
        port = _START + number % _BLOCK
        with socket.socket() as probe:
            # As servers do, for which a connection that has ended is no hindrance.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("", port))
            except OSError:
                continue
            return port
    raise AssertionError(f"no port from {_START} is free")
