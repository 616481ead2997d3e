"""The one place that makes AWS clients.

Endpoints, region and credentials come from the environment as boto3 reads it
(`AWS_ENDPOINT_URL`, `AWS_ENDPOINT_URL_S3`, `AWS_ENDPOINT_URL_DYNAMODB`, `AWS_DEFAULT_REGION`, ...),
so the same code talks to AWS, to moto and to any other S3 or DynamoDB.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
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

# "standard" retries throttling and 5xx with jittered back-off. Five tries take some seconds at
# worst, well inside a modality's DIMSE time-out; after that the peer hears A700 and tries again.
_CONFIG: Final = Config(
    retries={"mode": "standard", "max_attempts": 5},
    connect_timeout=5,
    read_timeout=20,
    max_pool_connections=64,
    user_agent_extra="lenticular",
)
# For looks whose answer is wanted soon or not at all.
_SOON: Final = _CONFIG.merge(
    Config(retries={"mode": "standard", "total_max_attempts": 2}, connect_timeout=2, read_timeout=3)
)
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


_OUTPUTS_WITH_ITEMS: Final = frozenset({"GetItemOutput", "QueryOutput", "ScanOutput"})


class _Parsers(ResponseParserFactory):
    """Makes the parsers of a DynamoDB client."""

    def create_parser(self, protocol_name: str) -> ResponseParser:
        """Make ours for JSON."""
        return (
            _ItemsAsTheyCome() if protocol_name == "json" else super().create_parser(protocol_name)
        )


def s3_client(*, impatient: bool = False, retries: bool = True) -> "S3Client":
    """Make an S3 client; it may be shared by threads. Raises `OperatorError`.

    An impatient one gives up after some ten seconds. Without `retries` its caller tries again.
    """
    config = _SOON if impatient else _CONFIG
    with _configured():
        return boto3.client("s3", config=config if retries else config.merge(_ONCE))


def dynamodb_client(*, impatient: bool = False) -> "DynamoDBClient":
    """Make a DynamoDB client; it may be shared by threads. Raises `OperatorError`.

    An impatient one gives up after some ten seconds.
    """
    with _configured():
        session = botocore.session.get_session()
        session.register_component("response_parser_factory", _Parsers())
        return boto3.Session(botocore_session=session).client(
            "dynamodb", config=_SOON if impatient else _CONFIG
        )


def sqs_client() -> "SQSClient":
    """Make an SQS client; it may be shared by threads. Raises `OperatorError`."""
    with _configured():
        return boto3.client("sqs", config=_CONFIG)


def logs_client() -> Any:  # noqa: ANN401 - no stubs for the two calls that are made of it
    """Make a CloudWatch Logs client whose caller tries again. Raises `OperatorError`."""
    with _configured():
        return boto3.client("logs", config=_SOON)


def secrets_client() -> Any:  # noqa: ANN401 - no stubs for the one call that is made of it
    """Make a Secrets Manager client whose caller tries again. Raises `OperatorError`."""
    with _configured():
        return boto3.client("secretsmanager", config=_SOON)


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
