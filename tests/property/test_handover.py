"""What a supervisor hands over is what its worker gets."""

import socket

from hypothesis import given
from hypothesis import strategies as st

from gateway.handover import Channel, Kind, pack_arrival, unpack_arrival
from gateway.pdu import ASSOCIATE_PDU_MAX_BYTES, PDU_HEADER

hosts = st.one_of(
    st.ip_addresses(v=4).map(str),
    st.ip_addresses(v=6).map(str),
    st.ip_addresses(v=6).map("{}%eth0".format),
)
ports = st.integers(1, 65535)


@given(hosts, ports, st.binary())
def test_an_arrival_is_unpacked_as_it_was_packed(host: str, port: int, request: bytes) -> None:
    assert unpack_arrival(pack_arrival((host, port), request)) == ((host, port), request)


@given(st.sampled_from(Kind), st.integers(0, (1 << 32) - 1), st.binary())
def test_a_packet_arrives_as_it_was_sent(kind: Kind, number: int, body: bytes) -> None:
    ours, theirs = Channel.pair()
    other = Channel(theirs)
    ours.send(kind, number, body)
    packet = other.receive()
    assert packet is not None
    assert (packet.kind, packet.number, packet.body) == (kind, number, body)
    assert other.receive() is None
    ours.close()
    other.close()


def test_the_longest_association_request_goes_with_its_connection() -> None:
    ours, theirs = Channel.pair()
    other = Channel(theirs)
    body = pack_arrival(
        ("0123:4567:89ab:cdef:0123:4567:89ab:cdef%interface", 65535),
        bytes(PDU_HEADER.size + ASSOCIATE_PDU_MAX_BYTES),
    )
    near, far = socket.socketpair()
    with far:
        with near:
            ours.send(Kind.ASSOCIATE, body=body, connection=near)
        packet = other.receive()
        assert packet is not None
        assert packet.body == body
        assert packet.connection is not None
        with packet.connection:
            packet.connection.sendall(b"here")
            assert far.recv(4) == b"here"
    ours.close()
    other.close()
