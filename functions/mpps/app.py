"""Procedure function: performed procedure steps become items of the index, beside their studies.

A message is an event of S3, for each request that changed a step, or one that this function sent to
itself to look again whether what a step announced has come. It is acknowledged when the index has
the step and, where there is something to wait for, SQS has the message of the next look.
"""

import json
from functools import cache
from os import environ
from typing import TYPE_CHECKING, Any

from aws_lambda_powertools import Logger, Tracer, single_metric
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
from botocore.exceptions import BotoCoreError, ClientError

from lenticular.archive import Archive, ProcedureKey
from lenticular.aws import dynamodb_client, error_code, s3_client, sqs_client
from lenticular.errors import StoreUnavailable
from lenticular.failures import described, speakable
from lenticular.identifiers import is_uid
from lenticular.index import Index
from lenticular.index_items import Procedure
from lenticular.procedures import Waiting, look
from lenticular.s3_events import object_keys
from lenticular.settings import ProcedureSettings, warn_of_unknown_variables
from lenticular.tracing import trace_calls

if TYPE_CHECKING:
    from mypy_boto3_sqs import SQSClient

logger = Logger()
# By ourselves: as the tracer would do it, traces have what AWS says, which quotes values.
tracer = Tracer(auto_patch=False)
trace_calls(tracer)
# A batch of which everything failed is answered like any other, not by breaking off.
processor = BatchProcessor(EventType.SQS, raise_on_entire_batch_failure=False)
# What the shared package logs comes out as one JSON line as well, with its facts as fields.
copy_config_to_registered_loggers(source_logger=logger, include={"lenticular"})
_LOOK_AGAIN = "look_again"


class _Watch:
    """Asks for further looks by messages that SQS delays."""

    def __init__(self, sqs: "SQSClient", queue: str) -> None:
        self._sqs = sqs
        self._queue = queue

    def look_again(self, sop_instance_uid: str, check: int, seconds: int) -> None:
        body = json.dumps({_LOOK_AGAIN: sop_instance_uid, "check": check})
        try:
            self._sqs.send_message(QueueUrl=self._queue, MessageBody=body, DelaySeconds=seconds)
        except (ClientError, BotoCoreError) as error:
            raise StoreUnavailable(f"SQS did not take a message: {error_code(error)}") from error

    def give_up(self, procedure: Procedure) -> None:
        logger.warning("procedure incomplete", extra=_facts(procedure))
        # At once, not with the others at the end: by then the index says that it was told.
        with single_metric("ProceduresIncomplete", MetricUnit.Count, 1) as metric:
            metric.add_dimension("service", logger.service)


@cache
def _stores() -> tuple[Archive, Index, _Watch, Waiting]:
    """Make the clients once for the life of the execution environment."""
    warn_of_unknown_variables(environ)
    settings = ProcedureSettings.from_environment(environ)
    return (
        Archive(s3_client(), settings.bucket),
        Index(dynamodb_client(), settings.table),
        _Watch(sqs_client(), settings.queue),
        Waiting(settings.patience_seconds),
    )


@logger.inject_lambda_context
@tracer.capture_lambda_handler(capture_response=False, capture_error=False)
def handler(event: dict[str, Any], context: LambdaContext) -> PartialItemFailureResponse:
    """Bring every step that the batch names to the index; report what is to come again."""
    return process_partial_response(event, _look_at, processor, context)


@tracer.capture_method(capture_response=False, capture_error=False)
def _look_at(record: SQSRecord) -> None:
    """Look at the steps of one message; raises when it must come again."""
    archive, index, watch, waiting = _stores()
    try:
        for uid, check in _steps(record.body):
            procedure = look(archive, index, uid, waiting=waiting, watch=watch, check=check)
            if procedure is not None:
                logger.info("procedure recorded", extra={**_facts(procedure), "check": check})
    except StoreUnavailable as error:
        logger.warning("procedure not recorded", extra={"reason": str(error)})
        raise
    except Exception as error:
        # The batch processor keeps it to itself; a trace tells what is raised.
        logger.error("message not understood", extra={"exception": described(error)})
        raise speakable(error) from None


def _facts(procedure: Procedure) -> dict[str, object]:
    return {
        "sop_instance_uid": procedure.sop_instance_uid,
        "study_instance_uid": procedure.study_instance_uid,
        "state": procedure.state,
        "announced": procedure.announced,
        "received": procedure.received,
    }


def _steps(body: str) -> list[tuple[str, int]]:
    """Return the steps that a message names and which look it is, or raise `ValueError`."""
    asked = json.loads(body)
    if isinstance(asked, dict) and _LOOK_AGAIN in asked:
        uid, check = asked[_LOOK_AGAIN], asked.get("check")
        if not (isinstance(uid, str) and is_uid(uid) and isinstance(check, int)):
            raise ValueError("the message names no procedure")
        return [(uid, check)]
    keys = map(ProcedureKey.parse, object_keys(body))
    return [(key.sop_instance_uid, 0) for key in dict.fromkeys(keys) if key is not None]
