"""Ports for servers that cannot say which one they took."""

import socket
from pathlib import Path

from tests.ports import free_port


def test_a_port_is_given_out_once_and_to_nobody_by_the_kernel() -> None:
    first, _ = map(int, Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split())
    ports = [free_port() for _ in range(500)]
    assert len(set(ports)) == len(ports)
    assert max(ports) < first


def test_a_port_that_somebody_has_is_not_given_out() -> None:
    port = free_port()
    with socket.create_server(("127.0.0.1", port + 1)):
        assert free_port() != port + 1
