"""The one place that makes AWS clients.

Endpoints, region and credentials come from the environment as boto3 reads it
(`AWS_ENDPOINT_URL`, `AWS_ENDPOINT_URL_S3`, `AWS_ENDPOINT_URL_DYNAMODB`, `AWS_DEFAULT_REGION`, ...),
so the same code talks to AWS, to moto and to any other S3 or DynamoDB.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import Enum, auto
from typing import TYPE_CHECKING, Any, Final

import boto3
import botocore.session
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError
from botocore.model import Shape
from botocore.parsers import JSONParser, ResponseParser, ResponseParserFactory

from .errors import OperatorError

if TYPE_CHECKING:
    from mypy_boto3_dynamodb import DynamoDBClient
    from mypy_boto3_s3 import S3Client
    from mypy_boto3_sqs import SQSClient


class Patience(Enum):
    """How long a client may take with one request before its caller hears that AWS is away.

    Each bound is that of an AWS which takes every request and answers none; where it throttles, the
    pauses between the tries come on top, some seconds.
    """

    #: Of functions and commands: S3 150 s, DynamoDB and SQS 54 s, less than any function may run.
    WORK = auto()
    #: 28 s: a peer waits for the answer, and impatient ones wait for 30 s.
    PEER = auto()
    #: 10 s, for what is wanted soon or not at all.
    LOOK = auto()


def _config(connect_seconds: float, read_seconds: float, tries: int) -> Config:
    return Config(
        # "standard" tries throttling and 5xx again, with jittered back-off.
        retries={"mode": "standard", "total_max_attempts": tries},
        connect_timeout=connect_seconds,
        # How long nothing may come, or nothing be taken of what is sent: no bound for a long body.
        read_timeout=read_seconds,
        max_pool_connections=64,
        user_agent_extra="lenticular",
    )


#: DynamoDB's longest answer has 1 MB, and comes within a second.
_CONFIGS: Final = {
    Patience.WORK: _config(2, 7, 6),
    Patience.PEER: _config(1.5, 4, 5),
    Patience.LOOK: _config(2, 3, 2),
}
#: S3 takes longer where a part of many MiB has been sent, or a long upload is completed.
_S3_CONFIGS: Final = {**_CONFIGS, Patience.WORK: _config(5, 20, 6)}
_ONCE: Final = Config(retries={"total_max_attempts": 1})


class _ItemsAsTheyCome(JSONParser):
    """Takes items of DynamoDB from its JSON as they stand in it.

    They are text, numbers and sets of text, of which botocore makes what they are already, value by
    value, in ten times the time the JSON takes.
    """

    def _handle_json_body(self, raw_body: bytes, shape: Shape) -> object:
        if shape.name in _OUTPUTS_WITH_ITEMS:
            return self._parse_body_as_json(raw_body)  # type: ignore[attr-defined]
        return super()._handle_json_body(raw_body, shape)  # type: ignore[misc]


_OUTPUTS_WITH_ITEMS: Final = frozenset(
    {"BatchGetItemOutput", "GetItemOutput", "QueryOutput", "ScanOutput"}
)


class _Parsers(ResponseParserFactory):
    """Makes the parsers of a DynamoDB client."""

    def create_parser(self, protocol_name: str) -> ResponseParser:
        """Make ours for JSON."""
        return (
            _ItemsAsTheyCome() if protocol_name == "json" else super().create_parser(protocol_name)
        )


def s3_client(patience: Patience = Patience.WORK, *, retries: bool = True) -> "S3Client":
    """Make an S3 client; it may be shared by threads. Raises `OperatorError`.

    Without `retries` its caller tries again.
    """
    config = _S3_CONFIGS[patience]
    with _configured():
        return boto3.client("s3", config=config if retries else config.merge(_ONCE))


def dynamodb_client(patience: Patience = Patience.WORK) -> "DynamoDBClient":
    """Make a DynamoDB client; it may be shared by threads. Raises `OperatorError`."""
    with _configured():
        session = botocore.session.get_session()
        session.register_component("response_parser_factory", _Parsers())
        return boto3.Session(botocore_session=session).client("dynamodb", config=_CONFIGS[patience])


def sqs_client() -> "SQSClient":
    """Make an SQS client; it may be shared by threads. Raises `OperatorError`."""
    with _configured():
        return boto3.client("sqs", config=_CONFIGS[Patience.WORK])


def logs_client() -> Any:  # noqa: ANN401 - no stubs for the two calls that are made of it
    """Make a CloudWatch Logs client whose caller tries again. Raises `OperatorError`."""
    with _configured():
        return boto3.client("logs", config=_CONFIGS[Patience.LOOK])


def secrets_client() -> Any:  # noqa: ANN401 - no stubs for the one call that is made of it
    """Make a Secrets Manager client whose caller tries again. Raises `OperatorError`."""
    with _configured():
        return boto3.client("secretsmanager", config=_CONFIGS[Patience.LOOK])


def error_code(error: Exception) -> str:
    """Name what AWS refused by its error code, and what never reached it by the exception's name.

    The library's own sentence goes on with URLs and values, which no log is to have.
    """
    if isinstance(error, ClientError):
        return error.response.get("Error", {}).get("Code", "") or type(error).__name__
    return type(error).__name__


def conditional_write(
    operation: Callable[..., object],
    failure: Callable[[ClientError | BotoCoreError], Exception],
    **request: object,
) -> bool:
    """Write to DynamoDB; False when the condition does not hold. Raises what `failure` makes."""
    try:
        operation(**request)
    except (ClientError, BotoCoreError) as error:
        if error_code(error) == "ConditionalCheckFailedException":
            return False
        raise failure(error) from error
    return True


@contextmanager
def _configured() -> Iterator[None]:
    """Tell a person what of AWS's own configuration is missing or wrong."""
    try:
        yield
    except (BotoCoreError, ValueError) as error:
        raise OperatorError(
            f"AWS is not configured ({error}): set AWS_DEFAULT_REGION, credentials and, unless it "
            "is AWS itself, AWS_ENDPOINT_URL"
        ) from error
