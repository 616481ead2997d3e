"""Log lines are JSON with their facts as fields, and no exception can carry a patient into one."""

import io
import json
import logging
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from gateway.logs import JsonLines
from lenticular.errors import StoreUnavailable

Logged = Callable[[], dict[str, Any]]


@pytest.fixture
def logger() -> logging.Logger:
    logger = logging.Logger("gateway.test")  # noqa: LOG001 - of this test alone
    logger.propagate = False
    return logger


@pytest.fixture
def logged(logger: logging.Logger) -> Iterator[Logged]:
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JsonLines())
    logger.addHandler(handler)

    def line() -> dict[str, Any]:
        (only,) = stream.getvalue().splitlines()
        parsed = json.loads(only)
        assert isinstance(parsed, dict)
        return parsed

    yield line
    handler.close()


def test_facts_are_fields(logger: logging.Logger, logged: Logged) -> None:
    logger.warning("association rejected", extra={"calling_aet": 'A"\n', "seconds": 1.5})
    line = logged()
    assert line["message"] == "association rejected"
    assert line["level"] == "WARNING"
    assert line["logger"] == "gateway.test"
    assert line["calling_aet"] == 'A"\n'
    assert line["seconds"] == 1.5
    assert line["time"].endswith("+00:00")


def test_what_a_foreign_exception_says_is_not_written(
    logger: logging.Logger, logged: Logged
) -> None:
    def fail() -> None:
        try:
            float("Doe^Jane")
        except ValueError as error:
            raise StoreUnavailable("S3 throttles") from error

    try:
        fail()
    except StoreUnavailable:
        logger.exception("service failed")
    line = logged()
    assert "Doe" not in json.dumps(line)
    ours, cause = line["exception"]
    assert ours["type"] == "StoreUnavailable"
    assert ours["says"] == "S3 throttles"
    assert cause["type"] == "ValueError"
    assert "test_logs.py" in cause["frames"][-1]


def test_a_loop_of_causes_ends(logger: logging.Logger, logged: Logged) -> None:
    first, second = ValueError(), KeyError()
    first.__cause__, second.__cause__ = second, first
    logger.error("failed", exc_info=first)
    assert [entry["type"] for entry in logged()["exception"]] == ["ValueError", "KeyError"]
