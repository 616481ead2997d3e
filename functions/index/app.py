"""Index function: a batch of S3 events from the index queue becomes items of the index.

A message is acknowledged when everything it names is in the index (or in quarantine); the others
are reported as failed, come again, and end in the dead-letter queue.
"""

from functools import cache
from itertools import chain
from os import environ
from typing import Any

from aws_lambda_powertools import Logger
from aws_lambda_powertools.logging.utils import copy_config_to_registered_loggers
from aws_lambda_powertools.utilities.typing import LambdaContext

from lenticular.archive import Archive
from lenticular.aws import dynamodb_client, s3_client
from lenticular.index import Index
from lenticular.indexing import index_objects
from lenticular.s3_events import object_keys
from lenticular.settings import FunctionSettings

logger = Logger()
# What the shared package logs comes out as one JSON line as well, with its facts as fields.
copy_config_to_registered_loggers(source_logger=logger, include={"lenticular.indexing"})


@cache
def _stores() -> tuple[Archive, Index]:
    """Make the clients once for the life of the execution environment."""
    settings = FunctionSettings.from_environment(environ)
    archive = Archive(s3_client(), settings.bucket)
    newest_shown = settings.duplicates == "keep-both"
    return archive, Index(dynamodb_client(), settings.table, newest_shown=newest_shown)


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
    failed = set(index_objects(archive, index, chain.from_iterable(keys_of_message.values())))
    again += [message for message, keys in keys_of_message.items() if failed.intersection(keys)]
    logger.info("batch indexed", extra={"messages": len(event["Records"]), "failed": len(again)})
    return {"batchItemFailures": [{"itemIdentifier": message} for message in again]}
