"""Transcode function: originals that the index function names get a form in the internal format.

A message is acknowledged when the index names a proven form of its original, or the reason why
there is none; the others are reported as failed, come again, and end in the dead-letter queue.
"""

import warnings
from functools import cache
from os import environ

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

from lenticular.archive import Archive
from lenticular.aws import dynamodb_client, s3_client
from lenticular.failures import described, speakable
from lenticular.forms import FormStore
from lenticular.index import Index
from lenticular.settings import TranscodeSettings, warn_of_unknown_variables
from lenticular.splice import Reason
from lenticular.tracing import trace_calls
from lenticular.transcoding import Outcome, Transcoder
from lenticular.transcoding_queue import object_key

logger = Logger()
metrics = Metrics()
# A batch whose work was done before has nothing to count.
warnings.filterwarnings("ignore", "No application metrics to publish")
# By ourselves: as the tracer would do it, traces have what AWS says, which quotes values.
tracer = Tracer(auto_patch=False)
trace_calls(tracer)
# What the shared package logs comes out as one JSON line as well, with its facts as fields.
copy_config_to_registered_loggers(source_logger=logger, include={"lenticular"})
# A batch of which everything failed is answered like any other, not by breaking off.
processor = BatchProcessor(EventType.SQS, raise_on_entire_batch_failure=False)


@cache
def _transcoder() -> Transcoder:
    """Make the clients once for the life of the execution environment."""
    warn_of_unknown_variables(environ)
    settings = TranscodeSettings.from_environment(environ)
    s3 = s3_client()
    return Transcoder(
        Archive(s3, settings.bucket),
        FormStore(s3, settings.bucket, settings.forms_class),
        Index(dynamodb_client(), settings.table),
        settings.transcode,
        retire_originals=settings.retire_original,
    )


@logger.inject_lambda_context
@tracer.capture_lambda_handler(capture_response=False, capture_error=False)
@metrics.log_metrics
def handler(event: dict[str, object], context: LambdaContext) -> PartialItemFailureResponse:
    """Transcode every original that the batch names; report the messages to come again."""
    return process_partial_response(event, transcode, processor, context)


@tracer.capture_method(capture_response=False, capture_error=False)
def transcode(record: SQSRecord) -> None:
    """Transcode the original that one message names; the tracer wants the parameter so named."""
    try:
        key = object_key(record.body)
        outcome = _transcoder().transcode(key)
    except Exception as error:
        # The processor reports the message and says nothing of why; a trace tells what is raised.
        logger.error(
            "original not transcoded", extra={"body": record.body, "exception": described(error)}
        )
        raise speakable(error) from None
    if outcome is None:
        # Retired by another delivery of the message, or by the operator. There is nothing to do.
        logger.info("original is gone", extra={"object_key": key})
        return
    _count(outcome)
    facts = {
        "object_key": key,
        "transfer_syntax_uid": outcome.transfer_syntax_uid,
        "reason": outcome.reason,
        "original_bytes": outcome.original_bytes,
        "form_bytes": outcome.form_bytes,
        "retired": outcome.retired,
    }
    if outcome.reason is Reason.NOT_ITS_CONTENT:
        logger.error("original is not what its key says", extra=facts)
    else:
        logger.info("original transcoded" if outcome.form_bytes else "original kept", extra=facts)


def _count(outcome: Outcome) -> None:
    for name, unit, value in (
        ("FormsMade", MetricUnit.Count, int(outcome.form_bytes > 0)),
        (
            "OriginalsDamaged",
            MetricUnit.Count,
            int(outcome.reason is Reason.NOT_ITS_CONTENT),
        ),
        ("OriginalBytes", MetricUnit.Bytes, outcome.original_bytes if outcome.form_bytes else 0),
        ("FormBytes", MetricUnit.Bytes, outcome.form_bytes),
    ):
        metrics.add_metric(name, unit, value)
