"""A connection of pynetdicom's over TLS, which tells why there is none."""

import socket
import ssl
from typing import Any

from pynetdicom import AE
from pynetdicom.association import Association
from pynetdicom.transport import T_CONNECT, AddressInformation, AssociationSocket

from .requesting import UNREACHED
from .tls_calling import Tls


class TlsConnection(AssociationSocket):
    """Differs from what it is made of in two things.

    What keeps it from being there is not only logged. And what TLS says to itself, as a server does
    when the handshake is over (session tickets, RFC 8446 4.6.1), is not taken for the beginning of
    a PDU, whose rest is then waited for without end.

    Attributes:
        problem: what the peer did instead of answering, for a sentence that begins with its name
        version: the version of TLS that is spoken, such as `TLSv1.3`
    """

    def __init__(
        self, association: Association, bind: AddressInformation, host: str, tls: Tls
    ) -> None:
        """Prepare to connect to `host`."""
        super().__init__(association, address=bind)
        self.problem = UNREACHED
        self.version: str | None = None
        self._host = host
        self._tls = tls
        self._heard = b""
        self._failure: OSError | None = None

    def connect(self, primitive: T_CONNECT) -> None:
        """Connect and shake hands; pynetdicom goes on by what `primitive` then says."""
        assert self.socket is not None
        primitive.result = "Evt17"
        try:
            self.socket.settimeout(self.assoc.connection_timeout)
            self.socket.connect(primitive.address_info.as_tuple)
            self._shake_hands(self.socket)
        except OSError:
            self.socket.close()
            self.socket = None
        else:
            self._is_connected = True
            primitive.result = "Evt2"
        self.provider_queue.put(primitive)
        self._ready.set()

    def _shake_hands(self, sock: socket.socket) -> None:
        try:
            session = self._tls.context.wrap_socket(sock, server_hostname=self._host)
        except OSError as error:
            self.problem = self._tls.problem(error, self._host)
            raise
        session.settimeout(None)
        self.socket = session
        self.version = session.version()
        self.problem = self._tls.silence()

    def _shutdown_socket(self) -> None:
        super()._shutdown_socket()
        # It does not get as far where the peer has ended the connection already.
        if self.socket is not None:
            self.socket.close()

    @property
    def ready(self) -> bool:
        """Whether something of the peer's, or its end, can be read."""
        if self._heard or self._failure is not None:
            return True
        if not super().ready:
            return False
        session = self.socket
        assert session is not None
        session.settimeout(0)
        try:
            self._heard = session.recv(1)
        except ssl.SSLWantReadError:
            return False
        except OSError as error:
            self._failure = error
            if isinstance(error, ssl.SSLError):
                # In TLS 1.3 a client has shaken hands before the server has seen its certificate.
                self.problem = self._tls.problem(error, self._host)
        finally:
            session.settimeout(None)
        return True

    def recv(self, nr_bytes: int) -> bytearray:
        """Return as many bytes as are asked for, or fewer when the peer has ended."""
        if self._failure is not None:
            raise self._failure
        heard, self._heard = bytearray(self._heard), b""
        return heard + super().recv(nr_bytes - len(heard))


class TlsAE(AE):
    """An application entity whose associations to a peer go over TLS.

    Attributes:
        connection: that of the newest association
    """

    connection: TlsConnection

    def __init__(self, ae_title: str, host: str, tls: Tls) -> None:
        """Call `host`."""
        super().__init__(ae_title=ae_title)
        self._host = host
        self._tls = tls

    def _create_socket(
        self,
        assoc: Association,
        address: AddressInformation,
        tls_args: Any,  # noqa: ANN401, ARG002 - what it is made of has it
    ) -> AssociationSocket:
        self.connection = TlsConnection(assoc, address, self._host, self._tls)
        return self.connection


def tls_version(association: Association) -> str | None:
    """Return the version of TLS that an association is spoken over; `None` on plain TCP."""
    connection = association.dul.socket
    return connection.version if isinstance(connection, TlsConnection) else None
