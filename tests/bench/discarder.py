"""A C-STORE receiver that throws everything away and keeps nobody waiting.

    python -m tests.bench.discarder

It acknowledges what comes at once (TCP_QUICKACK). storescp does not, and an archive that leaves
Nagle's algorithm on then waits 40 ms for it in every instance: Linux's delayed acknowledgement
would be what is measured. It is one thread for each association.
"""

import json
import socket
import threading
from contextlib import suppress

from .association import AcceptedAssociation, PeerFailed
from .receivers import DESTINATION


def _serve(sock: socket.socket) -> None:
    """Take instances until the association is released or its connection closed."""
    with sock, suppress(OSError, PeerFailed):
        association = AcceptedAssociation(sock)
        while association.discard():
            pass


def main() -> None:
    """Serve on a free port of this machine until the process is ended."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
        print(json.dumps({"event": "ready", "aet": DESTINATION, "port": port}), flush=True)
        while True:
            sock, _ = listening.accept()
            threading.Thread(target=_serve, args=(sock,), daemon=True).start()


if __name__ == "__main__":
    main()
