"""A function that writes down every event, and then does what the messages in it say."""

import json
import os
import sys
import threading
from pathlib import Path
from typing import Any

import recording  # type: ignore[import-not-found] # its layer


def handler(event: dict[str, Any], context: Any) -> object:
    """Write the event down; a message that is a JSON object tells what to do, see `_ACTIONS`."""
    recording.write(
        {
            "pid": os.getpid(),
            "event": event,
            "environment": dict(os.environ),
            "path": sys.path,
            "function_name": context.function_name,
            "arn": context.invoked_function_arn,
            "memory": context.memory_limit_in_mb,
            "remaining_ms": context.get_remaining_time_in_millis(),
            "request_id": context.aws_request_id,
        }
    )
    failed = []
    for record in event["Records"]:
        order = _order(record["body"])
        first = record["attributes"]["ApproximateReceiveCount"] == "1"
        if "raise" in order:
            raise RuntimeError(order["raise"])
        if order.get("die_at_first") and first:
            os._exit(3)
        if "answer" in order:
            return order["answer"]
        if "print" in order:
            print(order["print"])
        if "hang_until_exists" in order:
            _wait_for(order["hang_until_exists"])
        if order.get("fail") or (order.get("fail_at_first") and first):
            failed.append({"itemIdentifier": record["messageId"]})
    return {"batchItemFailures": failed}


def _order(body: str) -> dict[str, Any]:
    try:
        order = json.loads(body)
    except ValueError:
        return {}
    return order if isinstance(order, dict) else {}


def _wait_for(path: str) -> None:
    pause = threading.Event()
    while not Path(path).exists():
        pause.wait(0.01)
