"""One function and one of its event sources, in a process of its own, as Lambda would run it.

The node starts it with the function's environment and one argument, a JSON object that
`argument` writes. When the handler is imported it prints `{"event": "ready"}` on stdout; what
the handler prints goes to stderr, where the logs are. SIGTERM lets it finish what waits in its
event source, then it exits 0.
"""

import dataclasses
import importlib
import json
import logging
import os
import signal
import sys
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from . import ROOT
from .event_sources import SOURCES, EventSource, InvocationFailed

_log = logging.getLogger(__name__)

Handler = Callable[[dict[str, Any], "Context"], object]


@dataclass(frozen=True, slots=True)
class LambdaFunction:
    """A function as a process can run it. `path` is what it can import before site-packages."""

    name: str
    arn: str
    handler: str
    path: list[str]
    timeout_seconds: float
    memory_mb: int
    environment: dict[str, str] = field(repr=False)


@dataclass(frozen=True)
class Context:
    """The context object a Python handler gets, Lambda developer guide, "context object"."""

    function_name: str
    invoked_function_arn: str
    memory_limit_in_mb: str
    aws_request_id: str
    deadline: float
    function_version: str = "$LATEST"
    log_group_name: str = "offline"
    log_stream_name: str = "offline"
    identity: None = None
    client_context: None = None

    def get_remaining_time_in_millis(self) -> int:
        """Return the time left until the function's time-out, never below 0."""
        return max(0, int((self.deadline - time.monotonic()) * 1000))


def argument(function: LambdaFunction, source: EventSource) -> str:
    """Write what the process needs to know, for its command line."""
    description = dataclasses.asdict(function)
    # The environment is the process's own by then.
    del description["environment"]
    return json.dumps(
        {
            "function": description,
            "source": {"type": source.TYPE, "properties": dataclasses.asdict(source)},  # type: ignore[call-overload]
        }
    )


def invocation(handler: Handler, function: LambdaFunction) -> Callable[[dict[str, Any]], object]:
    """Return what calls the handler with an event, and logs when it fails or takes too long."""

    def invoke(event: dict[str, Any]) -> object:
        overrun = threading.Timer(
            function.timeout_seconds,
            _log.error,
            ("%s has not ended within its %g s; Lambda would have ended it",
             function.name, function.timeout_seconds),
        )  # fmt: skip
        overrun.daemon = True
        overrun.start()
        context = Context(
            function_name=function.name,
            invoked_function_arn=function.arn,
            memory_limit_in_mb=str(function.memory_mb),
            aws_request_id=str(uuid.uuid4()),
            deadline=time.monotonic() + function.timeout_seconds,
        )
        try:
            # Lambda sends both as JSON, so a handler must neither get nor give anything else.
            return json.loads(json.dumps(handler(json.loads(json.dumps(event)), context)))
        except Exception as error:
            _log.exception("%s failed", function.name)
            raise InvocationFailed from error
        finally:
            overrun.cancel()

    return invoke


def _handler(function: LambdaFunction) -> Handler:
    """Import the handler with only the function's own code, its layers and installed packages."""
    installed = Path(sys.prefix)
    sys.path[:] = [
        *function.path,
        *(
            str(entry)
            for entry in map(Path, filter(None, sys.path))
            if entry.is_relative_to(installed) or not entry.is_relative_to(ROOT)
        ),
    ]
    module, _, name = function.handler.rpartition(".")
    handler: Handler = getattr(importlib.import_module(module.replace("/", ".")), name)
    return handler


def main() -> int:
    """Run the function on its event source until SIGTERM."""
    # Only the line that says ready may reach the node's end of stdout.
    ready = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(message)s")
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    description = json.loads(sys.argv[1])
    function = LambdaFunction(**description["function"], environment={})
    source = SOURCES[description["source"]["type"]](**description["source"]["properties"])
    try:
        handler = _handler(function)
    except (ImportError, AttributeError) as error:
        print(f"handler {function.handler} of {function.name} cannot be loaded: {error}",
              file=sys.stderr)  # fmt: skip
        return 2
    with ready:
        print(json.dumps({"event": "ready"}), file=ready)
    source.run(invocation(handler, function), stop)
    return 0


if __name__ == "__main__":
    sys.exit(main())
