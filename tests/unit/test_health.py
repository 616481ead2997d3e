"""Health checks: what they say when, and that no client of theirs can keep them from saying it."""

import http.client
import logging
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from time import monotonic

import pytest

from gateway.health import Health
from tests.cloud.deadline import eventually


@dataclass
class Node:
    """What the health checks see of a node."""

    draining: bool = False
    turning: bool = True
    found: str | None = None
    trouble: str | None = None


@contextmanager
def checked(
    node: Node,
    look: Callable[[], str | None] | None = None,
    look_seconds: float = 0.01,
    probe_seconds: float = 5,
    say_again_seconds: float = 3600,
) -> Iterator[Health]:
    health = Health(
        "127.0.0.1",
        0,
        is_draining=lambda: node.draining,
        beat=lambda: monotonic() if node.turning else 0.0,
        look=look or (lambda: node.found),
        trouble=lambda: node.trouble,
        look_seconds=look_seconds,
        probe_seconds=probe_seconds,
        stuck_seconds=0,
        say_again_seconds=say_again_seconds,
    )
    health.start()
    try:
        yield health
    finally:
        health.close()


def ask(health: Health, path: str, method: str = "GET") -> tuple[int, str]:
    connection = http.client.HTTPConnection(*health.address, timeout=10)
    try:
        connection.request(method, path)
        response = connection.getresponse()
        return response.status, response.read().decode().strip()
    finally:
        connection.close()


def ask_until(health: Health, expected: tuple[int, str]) -> None:
    """Ask until the node's change has been looked at."""
    eventually(lambda: ask(health, "/ready"), until=lambda answer: answer == expected)


def test_a_node_that_serves_is_alive_and_ready() -> None:
    with checked(Node()) as health:
        ask_until(health, (200, "ready"))
        assert ask(health, "/alive") == (200, "alive")


def test_a_node_that_drains_is_alive_but_not_ready() -> None:
    node = Node()
    with checked(node) as health:
        ask_until(health, (200, "ready"))
        node.draining = True
        assert ask(health, "/ready") == (503, "draining")
        assert ask(health, "/alive") == (200, "alive")


def test_a_node_without_its_bucket_is_alive_but_not_ready_until_it_is_back(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    node = Node(found="the bucket cannot be reached: 403")
    with checked(node) as health:
        ask_until(health, (503, "the bucket cannot be reached: 403"))
        assert ask(health, "/alive") == (200, "alive")
        node.found = None
        ask_until(health, (200, "ready"))
    # However often it was asked and looked at, each change is one line.
    assert [record.getMessage() for record in caplog.records] == ["not ready", "ready"]


def said(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Return why the node was said not to be ready."""
    return [
        vars(record)["reason"] for record in caplog.records if record.getMessage() == "not ready"
    ]


def test_a_node_that_stays_not_ready_says_so_again_and_again(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with checked(Node(found="the bucket cannot be reached: 403"), say_again_seconds=0.05):
        reasons = eventually(lambda: said(caplog), until=lambda reasons: len(reasons) >= 3)
    assert set(reasons) == {"the bucket cannot be reached: 403"}


def test_a_node_that_has_a_trouble_of_its_own_says_so(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    node, looks = Node(), 0

    def look() -> None:
        nonlocal looks
        looks += 1

    with checked(node, look) as health:
        ask_until(health, (200, "ready"))
        node.trouble = "the spool is full"
        eventually(lambda: said(caplog), until=lambda reasons: reasons == ["the spool is full"])
        node.trouble = None
        eventually(lambda: [record.getMessage() for record in caplog.records][-1] == "ready")
        # One that drains is as it should be.
        node.draining, node.trouble = True, "no worker process is ready"
        drains_since = looks
        eventually(lambda: looks > drains_since + 1)
    assert said(caplog) == ["the spool is full"]


def test_a_node_is_not_ready_before_its_first_look_and_no_probe_waits_for_it() -> None:
    may_end = threading.Event()

    def look() -> None:
        may_end.wait(10)

    with checked(Node(), look) as health:
        assert ask(health, "/ready")[0] == 503
        assert ask(health, "/alive")[0] == 200
        may_end.set()
        ask_until(health, (200, "ready"))


def test_a_node_whose_accepting_thread_is_stuck_is_not_alive() -> None:
    node = Node()
    with checked(node) as health:
        assert ask(health, "/alive") == (200, "alive")
        node.turning = False
        # It may not have been asked to turn since it last did.
        ask(health, "/alive")
        assert ask(health, "/alive") == (503, "the thread that accepts connections is stuck")
        node.turning = True
        assert ask(health, "/alive") == (200, "alive")


def test_probes_do_not_look() -> None:
    looks = 0
    looked = threading.Event()

    def look() -> None:
        nonlocal looks
        looks += 1
        looked.set()

    with checked(Node(), look, look_seconds=3600) as health:
        looked.wait(10)
        ask_until(health, (200, "ready"))
        for _ in range(100):
            assert ask(health, "/ready") == (200, "ready")
    assert looks == 1


def test_a_look_that_fails_is_no_good_news(caplog: pytest.LogCaptureFixture) -> None:
    def look() -> None:
        raise RuntimeError("a mistake")

    with checked(Node(), look) as health:
        ask_until(health, (503, "the look at bucket and table failed"))
    assert "the look at bucket and table failed" in caplog.text


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("GET", "/", 404), ("GET", "/ready/", 404), ("POST", "/alive", 405), ("HEAD", "/alive", 200)],
)
def test_nothing_else_is_answered(method: str, path: str, status: int) -> None:
    with checked(Node()) as health:
        assert ask(health, path, method)[0] == status


def test_slow_silent_and_endless_clients_hold_up_nobody() -> None:
    with checked(Node()) as health:
        before = threading.active_count()
        crowd = [socket.create_connection(health.address, timeout=10) for _ in range(200)]
        for number, client in enumerate(crowd):
            if number % 2:
                client.send(b"GET /al")
        assert ask(health, "/alive") == (200, "alive")
        assert threading.active_count() == before
        endless = socket.create_connection(health.address, timeout=10)
        crowd.append(endless)
        with pytest.raises(ConnectionError):
            endless.sendall(b"x" * (64 << 20))
        assert ask(health, "/alive") == (200, "alive")
        for client in crowd:
            client.close()


def test_a_request_that_never_ends_is_cut_off() -> None:
    with (
        checked(Node(), probe_seconds=0.1) as health,
        socket.create_connection(health.address, timeout=10) as slow,
    ):
        slow.send(b"GET /alive HTTP/1.1\r\n")
        assert slow.recv(1) == b""


def test_nothing_is_left_behind() -> None:
    before = set(threading.enumerate())
    with checked(Node()) as health:
        ask_until(health, (200, "ready"))
        address = health.address
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(address, timeout=10)
    for thread in set(threading.enumerate()) - before:
        thread.join(5)
        assert not thread.is_alive()
