"""Commit function: a message of the commit queue is one turn of a storage commitment.

It is acknowledged when its turn has been done: the transaction has ended, or the message of the
next turn is in the queue. What fails comes again, and ends in the dead-letter queue.
"""

import warnings
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cache
from os import environ
from typing import Any

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
from lenticular.aws import dynamodb_client, s3_client, secrets_client, sqs_client
from lenticular.commitment import Patience, State
from lenticular.committing import Committing, Progress, turns
from lenticular.event_report import Reporter
from lenticular.failures import described, speakable
from lenticular.index import Index
from lenticular.nodes import NodeTable
from lenticular.settings import CommitSettings, warn_of_unknown_variables
from lenticular.status import CommitmentFailure
from lenticular.tls_secret import TlsSecret
from lenticular.tracing import trace_calls
from lenticular.transactions import Transactions

logger = Logger()
metrics = Metrics()
# A batch whose work was done before has nothing to count.
warnings.filterwarnings("ignore", "No application metrics to publish")
# By ourselves: as the tracer would do it, traces have what AWS says, which quotes values.
tracer = Tracer(auto_patch=False)
trace_calls(tracer)
# A batch of which everything failed is answered like any other, not by breaking off.
processor = BatchProcessor(EventType.SQS, raise_on_entire_batch_failure=False)
# What the shared package logs comes out as one JSON line as well, with its facts as fields.
copy_config_to_registered_loggers(source_logger=logger, include={"lenticular"})


def _now() -> datetime:
    return datetime.now(UTC)


@cache
def _committing() -> Committing:
    """Make the clients once for the life of the execution environment."""
    warn_of_unknown_variables(environ)
    settings = CommitSettings.from_environment(environ)
    dynamodb, sqs = dynamodb_client(), sqs_client()
    archive = Archive(s3_client(), settings.bucket)
    # Read for each report: an operator who mends a node's address is heard at once.
    nodes = NodeTable(dynamodb, settings.table, cache_seconds=0)
    secret = TlsSecret(
        client=secrets_client,
        arn=settings.tls_secret,
        trusts_client_ca=settings.mutual_tls == "yes",
        profile=settings.tls_profile,
    )

    def send(body: str, seconds: int) -> None:
        sqs.send_message(QueueUrl=settings.queue, MessageBody=body, DelaySeconds=seconds)

    return Committing(
        archive=archive,
        index=Index(dynamodb, settings.table),
        transactions=Transactions(archive, dynamodb, settings.table),
        reporter=Reporter(settings.answer_seconds, secret.with_node),
        patience=Patience(
            grace=timedelta(seconds=settings.grace_seconds),
            report=timedelta(hours=settings.report_hours),
            first_pause_seconds=settings.pause_seconds,
        ),
        find_node=nodes.find,
        send=send,
        clock=_now,
    )


@dataclass(frozen=True, slots=True)
class _Turns:
    """Handles a record of the batch."""

    lease: timedelta

    @tracer.capture_method(capture_response=False, capture_error=False)
    def __call__(self, record: SQSRecord) -> None:
        try:
            for turn in turns(record.body):
                progress = _committing().take(turn, self.lease)
                if progress is not None:
                    _count(progress)
        except Exception as error:
            facts = {"message_id": record.message_id, "exception": described(error)}
            logger.error("message not done", extra=facts)
            # A trace tells what is raised.
            raise speakable(error) from None


def _count(progress: Progress) -> None:
    reasons = [] if progress.verdict is None else list(progress.verdict.failures.values())
    for name, value in {
        "CommitmentsUndelivered": int(progress.ended is State.UNDELIVERED),
        # What is indexed and not there as it was: the one failure that is never the requester's.
        "InstancesNotSafe": reasons.count(CommitmentFailure.PROCESSING_FAILURE),
    }.items():
        metrics.add_metric(name, MetricUnit.Count, value)


@logger.inject_lambda_context
@tracer.capture_lambda_handler(capture_response=False, capture_error=False)
@metrics.log_metrics
def handler(event: dict[str, Any], context: LambdaContext) -> PartialItemFailureResponse:
    """Do the turn of every record; report the messages to be delivered again."""
    lease = timedelta(milliseconds=context.get_remaining_time_in_millis())
    return process_partial_response(event, _Turns(lease), processor, context)
