"""The life of the offline node: start, run, drain.

start   moto on its socket, the stack in it, the functions on their event sources, the gateway
run     what dies is started again, as Lambda and ECS do; moto cannot be, for it is the data
drain   the gateway first, so that nothing new comes; then the functions finish what is queued;
moto last
"""

import json
import logging
import os
import queue
import signal
import socket
import sys
import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Final

from lenticular.errors import OperatorError
from lenticular.nodes import read_nodes_file
from lenticular.settings import GatewaySettings

from . import REGION, ROOT
from .children import Child, Ended, Event, Events, Interrupted, Ready
from .function_worker import argument

if TYPE_CHECKING:
    from .functions import Drive

_log = logging.getLogger(__name__)

_LOOPBACK: Final = "127.0.0.1"
_EVERYWHERE: Final = frozenset({"0.0.0.0", "::"})  # noqa: S104 - compared, not listened on
#: A cold start on a busy machine takes less; a child that hangs is not waited for for ever.
_START_SECONDS: Final = 60.0
#: What the functions get to empty their queues once nothing new comes.
_DRAIN_SECONDS: Final = 10.0
#: A child that ran this long died of something new, so it is started again at once.
_STEADY_SECONDS: Final = 10.0
_FIRST_PAUSE_SECONDS: Final = 0.5
_LONGEST_PAUSE_SECONDS: Final = 10.0
#: By this status a child says that it has told the person what is wrong.
_TOLD: Final = 2

#: Settings of the gateway whose default is another one offline; the person's own come first.
_OFFLINE_SETTINGS: Final = {
    "LENTICULAR_AUDIT_FILE": str(ROOT / ".lenticular" / "audit.jsonl"),
    "LENTICULAR_ACCESS": "open",
    "LENTICULAR_AE_TITLE": "LENTICULAR",
    "LENTICULAR_BIND": _LOOPBACK,
    "LENTICULAR_PORT": "11112",
}
#: Settings of the gateway that come from the template.
_DEPLOYED: Final = ("LENTICULAR_BUCKET", "LENTICULAR_TABLE")


class StartError(OperatorError):
    """The node cannot start; the message is empty when a child has said why."""


@dataclass(frozen=True, slots=True)
class Options:
    """What a person asks for; `settings` are the gateway's, by environment variable."""

    settings: dict[str, str] = field(default_factory=dict)
    aws_port: int = 5555
    parameters: dict[str, str] = field(default_factory=dict)
    template: Path = ROOT / "template.yaml"


class Node:
    """The supervisor of moto, the functions and the gateway."""

    _moto: Child
    _gateway: Child
    _workers: list[Child]

    def __init__(self, options: Options, environment: Mapping[str, str]) -> None:
        """Check what can be checked before anything is started, or raise `OperatorError`."""
        self._options = options
        self._environment = environment
        own = {name: value for name, value in environment.items() if name.startswith("LENTICULAR_")}
        self._settings = {**_OFFLINE_SETTINGS, **own, **options.settings}
        self._events: Events = queue.SimpleQueue()
        self._running: set[Child] = set()
        (ROOT / ".lenticular").mkdir(exist_ok=True)
        self._check()

    def _check(self) -> None:
        if "AWS_ENDPOINT_URL_S3" in self._environment:
            raise StartError(
                "AWS_ENDPOINT_URL_S3 is set, but only moto's S3 tells the index queue here what "
                "was stored: unset it, or run the gateway without the offline stand-in"
            )
        checked = GatewaySettings.from_environment(
            {**self._settings, **dict.fromkeys(_DEPLOYED, "from the template")}
        )
        if checked.port is None:
            raise StartError(
                "LENTICULAR_PORT is off, but the offline node is spoken to there: set a port, and "
                "LENTICULAR_TLS_PORT beside it"
            )
        if checked.nodes_file is not None:
            read_nodes_file(checked.nodes_file)
        for setting in fields(checked):
            value = getattr(checked, setting.name)
            if isinstance(value, Path):
                # The gateway runs in another folder.
                self._settings[setting.metadata["variable"]] = str(value.absolute())
        # The gateway listens last; a port that is taken should be told first.
        _listen(checked.bind, checked.port, "--port").close()

    def run(self) -> int:
        """Run the node until it is interrupted and return its exit status.

        Raises:
            OperatorError: it cannot start; what was started has been ended.
        """
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: self._events.put(Interrupted()))
        try:
            ready = self._start()
            if ready is None:
                return 0
            print(f"ready {json.dumps(ready)}", flush=True)
            audit_file = self._settings["LENTICULAR_AUDIT_FILE"]
            print(_things_to_try(ready, audit_file), file=sys.stderr, flush=True)
            return self._watch()
        finally:
            self._kill()

    def _start(self) -> dict[str, str] | None:
        """Start everything and return what the ready line says; None when interrupted."""
        with _listen(_LOOPBACK, self._options.aws_port, "--aws-port") as listening:
            endpoint = f"http://{_LOOPBACK}:{listening.getsockname()[1]}"
            aws = aws_environment(endpoint, self._environment)
            self._moto = moto(listening, aws, self._environment, self._events)
            self._begin(self._moto)
        # SAM's translator takes as long to load as moto does: both at once. Until moto accepts,
        # requests wait in its socket.
        from .deployment import deploy  # noqa: PLC0415

        deployed = deploy(self._options.template, self._options.parameters, aws)
        self._workers = [
            worker(drive, aws, self._environment, self._events) for drive in deployed.drives
        ]
        self._gateway = Child(
            "the gateway",
            "gateway",
            environment={
                **_without_aws(self._environment),
                **aws,
                **self._settings,
                **deployed.settings,
                "PYTHONPATH": str(ROOT / "layers" / "core"),
            },
            events=self._events,
        )
        said = self._until_ready([*self._workers, self._gateway])
        if said is None:
            return None
        # When it is started again, it must be where its peers know it.
        self._gateway.environment["LENTICULAR_PORT"] = str(said["port"])
        return {
            "dimse": f"{said['host']}:{said['port']}",
            "aet": str(said["aet"]),
            "aws": endpoint,
            "bucket": deployed.settings["LENTICULAR_BUCKET"],
            "table": deployed.settings["LENTICULAR_TABLE"],
        }

    def _until_ready(self, children: Collection[Child]) -> dict[str, object] | None:
        """Start children and return what the gateway says when all are ready."""
        for child in children:
            self._begin(child)
        said: dict[str, object] = {}
        waited_for = set(children)
        deadline = time.monotonic() + _START_SECONDS
        while waited_for:
            match self._next(deadline):
                case None:
                    names = ", ".join(sorted(child.name for child in waited_for))
                    raise StartError(f"not ready after {_START_SECONDS:g} s: {names}")
                case Interrupted():
                    return None
                case Ended(child, status):
                    raise StartError(
                        ""
                        if status == _TOLD
                        else f"{child.name} ended at start with exit status {status}"
                    )
                case Ready(child, line):
                    waited_for.discard(child)
                    if child is self._gateway:
                        said = line
        return said

    def _watch(self) -> int:
        """Start again what dies, until the node is interrupted or moto is gone."""
        due: dict[Child, float] = {}
        pauses: dict[Child, float] = {}
        while True:
            match self._next(min(due.values(), default=None)):
                case Interrupted():
                    return self._drain()
                case Ended(child, status) if child is self._moto:
                    _log.error("moto ended with exit status %d, and all data with it", status)
                    return 1
                case Ended(child, status):
                    pauses[child] = _pause(pauses.get(child, 0.0), child.age_seconds)
                    due[child] = time.monotonic() + pauses[child]
                    _log.warning(
                        "%s ended with exit status %d; it is started again in %g s",
                        child.name,
                        status,
                        pauses[child],
                    )
                case _:
                    pass
            for child in [child for child, when in due.items() if when <= time.monotonic()]:
                del due[child]
                self._begin(child)

    def _drain(self) -> int:
        """Stop in the order in which data flows; a second interrupt ends the patience."""
        _log.info("stopping; interrupt again to stop at once")
        # The gateway has its own deadline, LENTICULAR_DRAIN_SECONDS.
        if not self._stop([self._gateway], None):
            return 1
        if not self._stop(self._workers, time.monotonic() + _DRAIN_SECONDS):
            return 1
        if left := self._running.intersection(self._workers):
            names = ", ".join(sorted(child.name for child in left))
            _log.warning("not done after %g s: %s", _DRAIN_SECONDS, names)
        return 0

    def _stop(self, children: Collection[Child], deadline: float | None) -> bool:
        """Let children finish until the deadline; False when interrupted meanwhile."""
        for child in self._running.intersection(children):
            child.terminate()
        while self._running.intersection(children):
            match self._next(deadline):
                case None:
                    return True
                case Interrupted():
                    return False
        return True

    def _kill(self) -> None:
        for child in self._running:
            child.kill()
        while self._running:
            self._next(None)

    def _begin(self, child: Child) -> None:
        child.start()
        self._running.add(child)

    def _next(self, deadline: float | None) -> Event | None:
        """Wait for an event until a moment of the monotonic clock; None when that has come."""
        timeout = None if deadline is None else max(0.0, deadline - time.monotonic())
        try:
            event = self._events.get(timeout=timeout)
        except queue.Empty:
            return None
        if isinstance(event, Ended):
            self._running.discard(event.child)
        return event


def moto(
    listening: socket.socket, aws: Mapping[str, str], environment: Mapping[str, str], events: Events
) -> Child:
    """Describe the process that serves moto on a listening socket; ours may be closed after."""
    return Child(
        "moto",
        "infra.local.moto_server",
        str(listening.fileno()),
        environment={**_without_aws(environment), **aws},
        events=events,
        pass_fds=(listening.fileno(),),
    )


def worker(
    drive: "Drive", aws: Mapping[str, str], environment: Mapping[str, str], events: Events
) -> Child:
    """Describe the process that runs a function on one of its event sources.

    Its environment is what Lambda gives: the template's variables and Lambda's own, and of ours
    only what a process needs to run at all.
    """
    function = drive.function
    kept = {name: environment[name] for name in ("PATH", "TMPDIR") if name in environment}
    return Child(
        f"function {drive.logical_id}",
        "infra.local.function_worker",
        argument(function, drive.source),
        environment={
            **kept,
            "LANG": "en_US.UTF-8",
            "TZ": ":UTC",
            "AWS_LAMBDA_FUNCTION_NAME": function.name,
            "AWS_LAMBDA_FUNCTION_VERSION": "$LATEST",
            "AWS_LAMBDA_FUNCTION_MEMORY_SIZE": str(function.memory_mb),
            "_HANDLER": function.handler,
            **function.environment,
            **aws,
        },
        events=events,
    )


def aws_environment(endpoint: str, environment: Mapping[str, str]) -> dict[str, str]:
    """Return the variables by which any AWS SDK finds moto, and nothing of the person's own.

    AWS_ENDPOINT_URL_DYNAMODB is kept, and with it the credentials, for it may ask for them.
    """
    variables = {
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_REGION": REGION,
        "AWS_DEFAULT_REGION": REGION,
        "AWS_ACCESS_KEY_ID": "offline",
        "AWS_SECRET_ACCESS_KEY": "offline",
        "AWS_CONFIG_FILE": os.devnull,
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
        "AWS_EC2_METADATA_DISABLED": "true",
        # A proxy would not find this machine's own addresses.
        "NO_PROXY": f"{_LOOPBACK},localhost",
        "no_proxy": f"{_LOOPBACK},localhost",
    }
    own = ("AWS_ENDPOINT_URL_DYNAMODB", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")
    if own[0] in environment:
        variables |= {name: environment[name] for name in own if name in environment}
    return variables


def _without_aws(environment: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in environment.items() if not name.startswith("AWS_")}


def _pause(last_seconds: float, age_seconds: float) -> float:
    """Return how long a child that ended waits to be started again, in seconds."""
    if age_seconds >= _STEADY_SECONDS:
        return 0.0
    return min(max(_FIRST_PAUSE_SECONDS, 2 * last_seconds), _LONGEST_PAUSE_SECONDS)


def _listen(host: str, port: int, option: str) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=128)
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno and error.errno > 0 else error.strerror
        raise StartError(
            f"cannot listen on {host} port {port} ({reason}): choose another with {option}"
        ) from error


def _things_to_try(ready: Mapping[str, str], audit_file: str) -> str:
    host, _, port = ready["dimse"].rpartition(":")
    peer = f"{_LOOPBACK if host in _EVERYWHERE else host} {port}"
    call = f"-aec {ready['aet']}"
    keys = "-k QueryRetrieveLevel=STUDY -k StudyInstanceUID -k PatientName"
    return "\n".join(
        (
            "Try, with DCMTK:",
            f"  echoscu {call} {peer}",
            f"  dcmsend {call} +sd +r {peer} FOLDER",
            f"  findscu -S {call} {keys} {peer}",
            "What is stored is kept in memory and gone when the node ends.",
            f"Who stored, asked for and was sent what is in {audit_file}.",
        )
    )
