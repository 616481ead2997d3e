"""The stack's buckets, queues and tables, created through the same API AWS has.

CloudFormation's properties are the API's parameters in other places and sometimes under other
names; the tables here say which. A property that no table knows is an error, so that what runs
offline is what the template says.
"""

import json
import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import boto3
from botocore import xform_name
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError
from botocore.model import ListShape, MapShape, Shape, StructureShape

from lenticular.aws import error_code
from lenticular.errors import OperatorError

from .template import Json, Resource, Stack, TemplateError

if TYPE_CHECKING:
    from botocore.client import BaseClient
    from mypy_boto3_dynamodb import DynamoDBClient
    from mypy_boto3_s3 import S3Client
    from mypy_boto3_sqs import SQSClient

_log = logging.getLogger(__name__)


class CloudError(OperatorError):
    """A resource of the template could not be created."""


@dataclass(frozen=True, slots=True)
class Clients:
    """The services that hold the stack's resources."""

    s3: "S3Client"
    sqs: "SQSClient"
    dynamodb: "DynamoDBClient"


def clients(environment: Mapping[str, str]) -> Clients:
    """Make clients of what the children's `AWS_*` variables point at."""
    session = boto3.session.Session(
        aws_access_key_id=environment["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=environment["AWS_SECRET_ACCESS_KEY"],
        region_name=environment["AWS_REGION"],
    )

    def options(service: str) -> dict[str, Any]:
        endpoint = environment.get(f"AWS_ENDPOINT_URL_{service.upper()}")
        return {
            "endpoint_url": endpoint or environment["AWS_ENDPOINT_URL"],
            # An empty mapping, unlike None, keeps requests to this machine off a proxy.
            "config": Config(proxies={}, retries={"total_max_attempts": 2}),
        }

    return Clients(
        session.client("s3", **options("s3")),
        session.client("sqs", **options("sqs")),
        session.client("dynamodb", **options("dynamodb")),
    )


def create(stack: Stack, cloud: Clients) -> None:
    """Create every resource of the stack that is run offline.

    A table that is there already is kept as it is: DynamoDB may be a store that outlives the node.

    Raises:
        TemplateError: a property is not run offline.
        CloudError: a service refused a resource or did not answer.
    """
    for logical_id, resource_type in stack.types().items():
        if resource_type not in _SKIPPED and resource_type not in dict(_STEPS):
            _log.debug("%s is not offline: %s", logical_id, resource_type)
    for resource_type, creator in _STEPS:
        for resource in stack.of_type(resource_type):
            try:
                creator(cloud, resource, stack)
            except ClientError as error:
                cause = error.response.get("Error", {}).get("Message") or str(error)
                raise CloudError(f"{resource.logical_id} could not be created: {cause}") from error
            except BotoCoreError as error:
                raise CloudError(f"{resource.logical_id} could not be created: {error}") from error


def _queue(cloud: Clients, resource: Resource, stack: Stack) -> None:
    attributes = dict(resource.properties)
    attributes.pop("QueueName", None)
    tags = _tag_mapping(attributes.pop("Tags", []))
    # The dead-letter queue it names may not be there yet.
    attributes.pop("RedrivePolicy", None)
    _call(
        cloud.sqs,
        "CreateQueue",
        QueueName=stack.name(resource.logical_id),
        Attributes={name: _attribute(value) for name, value in attributes.items()},
        tags=tags,
    )


def _redrive(cloud: Clients, resource: Resource, stack: Stack) -> None:
    if policy := resource.properties.get("RedrivePolicy"):
        _call(
            cloud.sqs,
            "SetQueueAttributes",
            QueueUrl=stack.ref(resource.logical_id),
            Attributes={"RedrivePolicy": _attribute(policy)},
        )


def _queue_policy(cloud: Clients, resource: Resource, _stack: Stack) -> None:
    for url in resource.properties["Queues"]:
        _call(
            cloud.sqs,
            "SetQueueAttributes",
            QueueUrl=url,
            Attributes={"Policy": _attribute(resource.properties["PolicyDocument"])},
        )


def _attribute(value: object) -> str:
    """Write a queue attribute as the API takes it: always text."""
    return value if isinstance(value, str) else json.dumps(value)


def _table(cloud: Clients, resource: Resource, stack: Stack) -> None:
    name = stack.name(resource.logical_id)
    parameters = {**resource.properties, "TableName": name}
    backups = parameters.pop("PointInTimeRecoverySpecification", None)
    expiry = parameters.pop("TimeToLiveSpecification", None)
    if encryption := parameters.get("SSESpecification"):
        parameters["SSESpecification"] = _renamed(encryption, {"SSEEnabled": "Enabled"})
    if stream := parameters.get("StreamSpecification"):
        parameters["StreamSpecification"] = {"StreamEnabled": True, **stream}
    try:
        _call(cloud.dynamodb, "CreateTable", **parameters)
    except ClientError as error:
        if error_code(error) != "ResourceInUseException":
            raise
        _log.debug("table %s is there already and is kept", name)
        return
    if expiry:
        _call(cloud.dynamodb, "UpdateTimeToLive", TableName=name, TimeToLiveSpecification=expiry)
    if backups:
        try:
            _call(
                cloud.dynamodb,
                "UpdateContinuousBackups",
                TableName=name,
                PointInTimeRecoverySpecification=backups,
            )
        except ClientError as error:
            # DynamoDB Local has no backups.
            if error_code(error) != "UnknownOperationException":
                raise
            _log.debug("table %s has no backups here", name)


def _bucket(cloud: Clients, resource: Resource, stack: Stack) -> None:
    properties = dict(resource.properties)
    properties.pop("BucketName", None)
    name = stack.name(resource.logical_id)
    _call(
        cloud.s3, "CreateBucket", Bucket=name,
        ObjectLockEnabledForBucket=properties.pop("ObjectLockEnabled", False),
    )  # fmt: skip
    for key, value in properties.items():
        if key not in _BUCKET_PROPERTIES:
            raise TemplateError(f"{resource.logical_id} has {key}, which is not run offline")
        operation, parameter, convert = _BUCKET_PROPERTIES[key]
        _call(cloud.s3, operation, **{"Bucket": name, parameter: convert(value)})


def _bucket_policy(cloud: Clients, resource: Resource, _stack: Stack) -> None:
    policy = resource.properties["PolicyDocument"]
    # moto does not look at conditions: "deny what is not TLS" would deny everything.
    statements = [
        statement
        for statement in policy["Statement"]
        if not (statement["Effect"] == "Deny" and "Condition" in statement)
    ]
    if statements:
        _call(
            cloud.s3,
            "PutBucketPolicy",
            Bucket=resource.properties["Bucket"],
            Policy=json.dumps({**policy, "Statement": statements}),
        )


def _encryption(value: dict[str, Any]) -> dict[str, Any]:
    rules = [
        _renamed(rule, {"ServerSideEncryptionByDefault": "ApplyServerSideEncryptionByDefault"})
        for rule in value["ServerSideEncryptionConfiguration"]
    ]
    return {"Rules": rules}


def _notification(value: dict[str, Any]) -> dict[str, Any]:
    if other := sorted(set(value) - {"QueueConfigurations"}):
        raise TemplateError(f"the bucket notifies by {other[0]}, which is not run offline")
    configurations = []
    for queue in value.get("QueueConfigurations", []):
        configuration = {"QueueArn": queue["Queue"], "Events": [queue["Event"]]}
        if rules := queue.get("Filter", {}).get("S3Key", {}).get("Rules"):
            configuration["Filter"] = {"Key": {"FilterRules": rules}}
        configurations.append(configuration)
    return {"QueueConfigurations": configurations}


_LIFECYCLE_RULE: Final = {
    "Id": "ID",
    "ExpirationInDays": "Expiration.Days",
    "ExpirationDate": "Expiration.Date",
    "ExpiredObjectDeleteMarker": "Expiration.ExpiredObjectDeleteMarker",
    "Prefix": "Filter.Prefix",
}
_TRANSITION: Final = {"TransitionInDays": "Days", "TransitionDate": "Date"}
_NONCURRENT_TRANSITION: Final = {"TransitionInDays": "NoncurrentDays"}


def _lifecycle(value: dict[str, Any]) -> dict[str, Any]:
    rules = []
    for rule in value["Rules"]:
        renamed = _renamed({"Prefix": "", **rule}, _LIFECYCLE_RULE)
        if tags := renamed.pop("TagFilters", None):
            # S3 takes one condition as it is, and several joined.
            one = "Prefix" not in rule and len(tags) == 1
            joined = {"And": {**renamed["Filter"], "Tags": tags}}
            renamed["Filter"] = {"Tag": tags[0]} if one else joined
        for name, table in (
            ("Transitions", _TRANSITION),
            ("NoncurrentVersionTransitions", _NONCURRENT_TRANSITION),
        ):
            if name in renamed:
                renamed[name] = [_renamed(transition, table) for transition in renamed[name]]
        rules.append(renamed)
    return {"Rules": rules}


def _cors(value: dict[str, Any]) -> dict[str, Any]:
    renaming = {"Id": "ID", "MaxAge": "MaxAgeSeconds", "ExposedHeaders": "ExposeHeaders"}
    return {"CORSRules": [_renamed(rule, renaming) for rule in value["CorsRules"]]}


def _renamed(value: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    """Rename members; a new name with a dot goes one level down."""
    result: dict[str, Any] = {}
    for name, member in value.items():
        outer, _, inner = names.get(name, name).partition(".")
        if inner:
            result.setdefault(outer, {})[inner] = member
        else:
            result[outer] = member
    return result


def _as_it_is(value: Json) -> Json:
    return value


#: Property of a bucket: the operation that sets it, its parameter, and what it takes.
_BUCKET_PROPERTIES: Final[Mapping[str, tuple[str, str, Callable[[Json], Json]]]] = {
    "VersioningConfiguration": ("PutBucketVersioning", "VersioningConfiguration", _as_it_is),
    "BucketEncryption": (
        "PutBucketEncryption", "ServerSideEncryptionConfiguration", _encryption,
    ),
    "PublicAccessBlockConfiguration": (
        "PutPublicAccessBlock", "PublicAccessBlockConfiguration", _as_it_is,
    ),
    "OwnershipControls": ("PutBucketOwnershipControls", "OwnershipControls", _as_it_is),
    "LifecycleConfiguration": (
        "PutBucketLifecycleConfiguration", "LifecycleConfiguration", _lifecycle,
    ),
    "CorsConfiguration": ("PutBucketCors", "CORSConfiguration", _cors),
    "Tags": ("PutBucketTagging", "Tagging", lambda tags: {"TagSet": tags}),
    "NotificationConfiguration": (
        "PutBucketNotificationConfiguration", "NotificationConfiguration", _notification,
    ),
}  # fmt: skip


def _tag_mapping(tags: Iterable[Mapping[str, str]]) -> dict[str, str]:
    return {tag["Key"]: tag["Value"] for tag in tags}


def _call(client: "BaseClient", operation: str, **parameters: Json) -> None:
    """Call an operation with its parameters in the types its model asks for.

    A parameter of the template gives text where the API wants a number or a truth value.
    """
    model = client.meta.service_model.operation_model(operation)
    request = _fit(parameters, model.input_shape, operation)
    getattr(client, xform_name(operation))(**request)


def _fit(value: Json, shape: Shape | None, path: str) -> Json:
    if isinstance(shape, StructureShape) and isinstance(value, dict):
        if unknown := sorted(set(value) - set(shape.members)):
            raise TemplateError(f"{path} has no {unknown[0]}: it is not run offline")
        return {name: _fit(member, shape.members[name], f"{path}.{name}")
                for name, member in value.items()}  # fmt: skip
    if isinstance(shape, ListShape) and isinstance(value, list):
        return [_fit(item, shape.member, path) for item in value]
    if isinstance(shape, MapShape) and isinstance(value, dict):
        return {key: _fit(item, shape.value, path) for key, item in value.items()}
    if shape is not None and isinstance(value, str):
        if shape.type_name in ("integer", "long"):
            return int(value)
        if shape.type_name == "boolean":
            return value.lower() == "true"
    return value


#: What is created, in this order: a redrive policy needs the queue for dead letters, a
#: notification the queue it goes to. A queue's policy comes after its redrive policy because moto
#: forgets the former when the latter is set.
_STEPS: Final[tuple[tuple[str, Callable[[Clients, Resource, Stack], None]], ...]] = (
    ("AWS::SQS::Queue", _queue),
    ("AWS::SQS::Queue", _redrive),
    ("AWS::SQS::QueuePolicy", _queue_policy),
    ("AWS::DynamoDB::Table", _table),
    ("AWS::S3::Bucket", _bucket),
    ("AWS::S3::BucketPolicy", _bucket_policy),
)

#: What has no meaning offline or is run by other means; anything else that is not created is told
#: in the debug log.
_SKIPPED: Final = {
    "AWS::CloudFormation::Stack": "the gateway is a process of this machine, on its network",
    "AWS::CloudWatch::Alarm": "nobody is paged offline",
    "AWS::IAM::ManagedPolicy": "moto allows everything",
    "AWS::IAM::Policy": "moto allows everything",
    "AWS::IAM::Role": "moto allows everything",
    "AWS::IAM::RolePolicy": "moto allows everything",
    "AWS::KMS::Key": "moto encrypts nothing",
    "AWS::Lambda::EventSourceMapping": "functions run in processes of their own",
    "AWS::Lambda::Function": "functions run in processes of their own",
    "AWS::Lambda::LayerVersion": "functions run in processes of their own",
    "AWS::Logs::LogGroup": "logs go to stderr",
    "AWS::Logs::MetricFilter": "logs go to stderr",
    "AWS::SNS::Topic": "nobody is paged offline",
    "AWS::SNS::TopicPolicy": "nobody is paged offline",
}
