"""The ports a node listens on: one for plain TCP, one for TLS, or both."""

import socket
from typing import Final, Self

#: Room for every modality of a site that comes back after an outage at the same moment.
_BACKLOG: Final = 256


class Ports:
    """Listening sockets, in whose backlog clients may wait before anybody accepts them.

    Attributes:
        plain, tls: the sockets; `None` where nobody listens
    """

    def __init__(
        self, plain: socket.socket | None = None, tls: socket.socket | None = None
    ) -> None:
        """Keep sockets that listen, or none."""
        self.plain = plain
        self.tls = tls
        # Known for good: whoever drains has closed them and is still asked.
        self._addresses = [None if each is None else _address(each) for each in (plain, tls)]

    @classmethod
    def open(cls, bind: str, plain: int | None, tls: int | None = None) -> Self:
        """Listen on `bind`, port 0 being a free one; raises `OSError` when it cannot."""
        first = None if plain is None else _listen(bind, plain)
        try:
            return cls(first, None if tls is None else _listen(bind, tls))
        except OSError:
            if first is not None:
                first.close()
            raise

    @property
    def address(self) -> tuple[str, int]:
        """Where plain TCP is taken; the port is the real one where 0 was asked."""
        address = self._addresses[0]
        assert address is not None
        return address

    @property
    def tls_address(self) -> tuple[str, int]:
        """Where TLS is taken."""
        address = self._addresses[1]
        assert address is not None
        return address


def _listen(bind: str, port: int) -> socket.socket:
    return socket.create_server(
        (bind, port),
        family=socket.AF_INET6 if ":" in bind else socket.AF_INET,
        backlog=_BACKLOG,
        dualstack_ipv6=bind == "::" and socket.has_dualstack_ipv6(),
    )


def _address(listener: socket.socket) -> tuple[str, int]:
    host, port, *_ = listener.getsockname()
    return str(host), int(port)
