"""The bucket, the table and the queues of the node that the environment names."""

from os import environ

from lenticular.archive import Archive
from lenticular.aws import dynamodb_client, s3_client, sqs_client
from lenticular.dead_letters import DeadLetters
from lenticular.index import Index
from lenticular.nodes import NodeTable
from lenticular.settings import IndexPolicySettings, StackSettings
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
