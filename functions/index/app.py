"""Index function: a batch of S3 events from the index queue becomes items of the index.

A message is acknowledged when everything it names is in the index (or in quarantine), and the
transcode function has been asked for its form; the others are reported as failed, come again, and
end in the dead-letter queue.
"""

from collections.abc import Iterable
from functools import cache
from itertools import chain
from os import environ
from typing import TYPE_CHECKING, Any

from aws_lambda_powertools import Logger
from aws_lambda_powertools.logging.utils import copy_config_to_registered_loggers
from aws_lambda_powertools.utilities.typing import LambdaContext

from lenticular.archive import Archive, InstanceKey
from lenticular.aws import dynamodb_client, s3_client, sqs_client
from lenticular.index import Index
from lenticular.indexing import index_objects
from lenticular.s3_events import object_keys
from lenticular.settings import IndexSettings
from lenticular.transcoding_queue import ask_for_transcoding

if TYPE_CHECKING:
    from mypy_boto3_sqs import SQSClient

logger = Logger()
# What the shared package logs comes out as one JSON line as well, with its facts as fields.
copy_config_to_registered_loggers(source_logger=logger, include={"lenticular"})


@cache
def _settings() -> IndexSettings:
    return IndexSettings.from_environment(environ)


@cache
def _stores() -> tuple[Archive, Index]:
    """Make the clients once for the life of the execution environment."""
    settings = _settings()
    archive = Archive(s3_client(), settings.bucket)
    newest_shown = settings.duplicates == "keep-both"
    return archive, Index(dynamodb_client(), settings.table, newest_shown=newest_shown)


@cache
def _sqs() -> "SQSClient":
    return sqs_client()


def _not_asked_for(keys: Iterable[str]) -> list[str]:
    """Ask for a form of each indexed instance; return those for which SQS did not listen."""
    if _settings().transcode.keeps_everything:
        return []
    originals = [key for key in keys if InstanceKey.parse(key)]
    failed = ask_for_transcoding(_sqs(), _settings().transcode_queue, originals)
    if failed:
        logger.warning("forms not asked for", extra={"objects": len(failed)})
    return failed


@logger.inject_lambda_context
def handler(event: dict[str, Any], context: LambdaContext) -> dict[str, Any]:  # noqa: ARG001 - Lambda's signature
    """Index every object that the batch names; report the messages to be delivered again."""
    archive, index = _stores()
    keys_of_message: dict[str, list[str]] = {}
    again: list[str] = []
    for record in event["Records"]:
        try:
            keys_of_message[record["messageId"]] = object_keys(record["body"])
        except ValueError:
            logger.exception("message not understood")
            again.append(record["messageId"])
    keys = set(chain.from_iterable(keys_of_message.values()))
    failed = set(index_objects(archive, index, keys))
    # Behind the index: a form is recorded in the item of its instance.
    failed.update(_not_asked_for(keys - failed))
    again += [message for message, keys in keys_of_message.items() if failed.intersection(keys)]
    logger.info("batch indexed", extra={"messages": len(event["Records"]), "failed": len(again)})
    return {"batchItemFailures": [{"itemIdentifier": message} for message in again]}
