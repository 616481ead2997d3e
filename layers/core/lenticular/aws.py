"""The one place that makes AWS clients.

Endpoints, region and credentials come from the environment as boto3 reads it
(`AWS_ENDPOINT_URL`, `AWS_ENDPOINT_URL_S3`, `AWS_ENDPOINT_URL_DYNAMODB`, `AWS_DEFAULT_REGION`, ...),
so the same code talks to AWS, to moto and to any other S3 or DynamoDB.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError

from .errors import OperatorError

if TYPE_CHECKING:
    from mypy_boto3_dynamodb import DynamoDBClient
    from mypy_boto3_s3 import S3Client

# "standard" retries throttling and 5xx with jittered back-off. Five tries take some seconds at
# worst, well inside a modality's DIMSE time-out; after that the peer hears A700 and tries again.
_CONFIG: Final = Config(
    retries={"mode": "standard", "max_attempts": 5},
    connect_timeout=5,
    read_timeout=20,
    max_pool_connections=64,
    user_agent_extra="lenticular",
)


def s3_client() -> "S3Client":
    """Make an S3 client; it may be shared by threads. Raises `OperatorError`."""
    with _configured():
        return boto3.client("s3", config=_CONFIG)


def dynamodb_client() -> "DynamoDBClient":
    """Make a DynamoDB client; it may be shared by threads. Raises `OperatorError`."""
    with _configured():
        return boto3.client("dynamodb", config=_CONFIG)


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
