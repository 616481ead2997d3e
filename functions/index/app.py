"""Index function: a batch of S3 events from the index queue becomes items of the index.

The batch is indexed at once, for what is written at a time is a study. Then each message is
acknowledged when everything it names is in the index (or in quarantine), and the transcode function
has been asked for its form; the others are reported as failed, come again, and end in the
dead-letter queue.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from os import environ
from typing import TYPE_CHECKING, Any

from aws_lambda_powertools import Logger, Metrics, Tracer
from aws_lambda_powertools.logging.utils import copy_config_to_registered_loggers
from aws_lambda_powertools.metrics import MetricUnit
from aws_lambda_powertools.utilities.batch import (
    BatchProcessor,
    EventType,
    process_partial_response,
)
from aws_lambda_powertools.utilities.batch.types import PartialItemFailureResponse
from aws_lambda_powertools.utilities.data_classes.sqs_event import SQSRecord
from aws_lambda_powertools.utilities.typing import LambdaContext

from lenticular.archive import Archive, InstanceKey
from lenticular.aws import dynamodb_client, s3_client, sqs_client
from lenticular.errors import StoreUnavailable
from lenticular.failures import described, speakable
from lenticular.index import Index
from lenticular.indexing import index_objects
from lenticular.s3_events import object_keys
from lenticular.settings import IndexSettings, warn_of_unknown_variables
from lenticular.tracing import trace_calls
from lenticular.transcoding_queue import ask_for_transcoding

if TYPE_CHECKING:
    from mypy_boto3_sqs import SQSClient

logger = Logger()
metrics = Metrics()
# By ourselves: as the tracer would do it, traces have what AWS says, which quotes values.
tracer = Tracer(auto_patch=False)
trace_calls(tracer)
# A batch of which everything failed is answered like any other, not by breaking off.
processor = BatchProcessor(EventType.SQS, raise_on_entire_batch_failure=False)
# What the shared package logs comes out as one JSON line as well, with its facts as fields.
copy_config_to_registered_loggers(source_logger=logger, include={"lenticular"})


@cache
def _settings() -> IndexSettings:
    warn_of_unknown_variables(environ)
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


@logger.inject_lambda_context
@tracer.capture_lambda_handler(capture_response=False, capture_error=False)
@metrics.log_metrics
def handler(event: dict[str, Any], context: LambdaContext) -> PartialItemFailureResponse:
    """Index every object that the batch names; report the messages to be delivered again."""
    keys = {key for record in event["Records"] for key in _keys(record["body"])}
    done = _Done(frozenset(_failed(keys)))
    answer = process_partial_response(event, done, processor, context)
    again = len(answer["batchItemFailures"])
    logger.info("batch indexed", extra={"messages": len(event["Records"]), "failed": again})
    return answer


@tracer.capture_method(capture_response=False, capture_error=False)
def _failed(keys: set[str]) -> set[str]:
    """Index objects and ask for their forms; return the keys that must be tried again."""
    try:
        archive, index = _stores()
        failed = set(index_objects(archive, index, keys))
    except Exception as error:
        logger.error("batch not indexed", extra={"exception": described(error)})
        # Lambda's runtime and a trace tell what is raised.
        raise speakable(error) from None
    metrics.add_metric("ObjectsIndexed", MetricUnit.Count, len(keys) - len(failed))
    metrics.add_metric("ObjectsNotIndexed", MetricUnit.Count, len(failed))
    # Behind the index: a form is recorded in the item of its instance.
    return failed.union(_not_asked_for(keys - failed))


def _not_asked_for(keys: Iterable[str]) -> list[str]:
    """Ask for a form of each indexed instance; return those for which SQS did not listen."""
    if _settings().transcode.keeps_everything:
        return []
    originals = [key for key in keys if InstanceKey.parse(key)]
    failed = ask_for_transcoding(_sqs(), _settings().transcode_queue, originals)
    if failed:
        logger.warning("forms not asked for", extra={"objects": len(failed)})
    return failed


@dataclass(frozen=True, slots=True)
class _Done:
    """Tells of each record of the batch whether it has been done."""

    failed: frozenset[str]

    def __call__(self, record: SQSRecord) -> None:
        try:
            keys = object_keys(record.body)
        except ValueError as error:
            facts = {"message_id": record.message_id, "exception": described(error)}
            logger.error("message not understood", extra=facts)
            raise
        # Why is in the log already, of each object or study.
        if not self.failed.isdisjoint(keys):
            raise StoreUnavailable("not everything that the message names was done")


def _keys(body: str) -> list[str]:
    """Return the keys that a message names, none when it is not understood."""
    try:
        return object_keys(body)
    except ValueError:
        return []
