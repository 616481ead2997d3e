"""The bucket, the table and the queues of the node that the environment names."""

from os import environ

from lenticular.archive import Archive
from lenticular.audit_outlets import AuditFile, LogGroup, Outlet
from lenticular.aws import dynamodb_client, logs_client, s3_client, sqs_client
from lenticular.dead_letters import DeadLetters
from lenticular.index import Index
from lenticular.nodes import NodeTable
from lenticular.settings import AuditSettings, IndexPolicySettings, StackSettings
from lenticular.transactions import Transactions


def archive() -> Archive:
    """Return the bucket."""
    return Archive(s3_client(), IndexPolicySettings.from_environment(environ).bucket)


def index() -> Index:
    """Return the table's index, which shows the content that LENTICULAR_DUPLICATES says."""
    settings = IndexPolicySettings.from_environment(environ)
    return Index(dynamodb_client(), settings.table, newest_shown=settings.duplicates == "keep-both")


def node_table() -> NodeTable:
    """Return the table's nodes."""
    return NodeTable(dynamodb_client(), IndexPolicySettings.from_environment(environ).table)


def transactions() -> Transactions:
    """Return the storage commitments."""
    table = IndexPolicySettings.from_environment(environ).table
    return Transactions(archive(), dynamodb_client(), table)


def dead_letters() -> DeadLetters:
    """Return the queues of the stack that LENTICULAR_STACK names."""
    return DeadLetters(sqs_client(), StackSettings.from_environment(environ).stack)


def audit_outlets() -> list[Outlet]:
    """Return where the audit trail is, as far as the environment names it."""
    settings = AuditSettings.from_environment(environ)
    outlets: list[Outlet] = []
    if settings.log_group is not None:
        outlets.append(LogGroup(logs_client(), settings.log_group))
    if settings.file is not None:
        outlets.append(AuditFile(settings.file))
    return outlets
