"""What the templates permit to each role, and what of it no call of ours asks for."""

from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, Final

from tests.template.sam import Template, reference


@dataclass(frozen=True, order=True)
class Permission:
    """An action in a statement of a role, by the role's logical id and the statement's Sid."""

    role: str
    sid: str
    action: str


#: Permissions that AWS itself uses in our name or that need a failure: by role and action, where *
#: is anything, with who uses them.
NOT_ASKED_FOR: Final = {
    ("*FunctionRole", "logs:*"): "Lambda's runtime writes the log",
    ("*FunctionRole", "sqs:ReceiveMessage"): "Lambda's event source mapping takes messages",
    ("*FunctionRole", "sqs:DeleteMessage"): "Lambda's event source mapping takes messages",
    ("*FunctionRole", "sqs:GetQueueAttributes"): "Lambda's event source mapping takes messages",
    ("*FunctionRole", "xray:*"): "Lambda's runtime sends traces",
    ("*", "kms:*"): "S3, SQS and DynamoDB use the key for whom they serve",
    ("CommitFunctionRole", "dynamodb:Scan"): "when a request names thousands of instances",
    ("CommitFunctionRole", "ec2:*"): "Lambda puts the function into the VPC",
    ("CommitFunctionRole", "secretsmanager:*"): "when there is a secret and a requester takes TLS",
    ("ExecutionRole", "*"): "ECS starts the task",
    ("IndexFunctionRole", "s3:ListBucket"): "lets S3 say that an object is missing",
    ("TranscodeFunctionRole", "s3:ListBucket"): "lets S3 say that an object is missing",
    ("TaskRole", "s3:AbortMultipartUpload"): "after an upload that failed",
    ("TranscodeFunctionRole", "s3:AbortMultipartUpload"): "after an upload that failed",
}


def declared(template: Template, gateway: Template) -> set[Permission]:
    """Return what the main template and the gateway's permit, conditions aside."""
    [managed] = template.properties("AWS::IAM::ManagedPolicy").values()
    found = {
        Permission(role, *each)
        for source in (template, gateway)
        for role, properties in source.properties("AWS::IAM::Role").items()
        for policy in properties.get("Policies", [])
        for each in _statements(_chosen(policy)["PolicyDocument"])
    }
    found |= {
        Permission(reference(properties["RoleName"]) or "", *each)
        for properties in template.properties("AWS::IAM::RolePolicy").values()
        for each in _statements(properties["PolicyDocument"])
    }
    found |= {
        Permission(reference(role) or "", *each)
        for properties in template.properties("AWS::IAM::Policy").values()
        for role in properties["Roles"]
        for each in _statements(properties["PolicyDocument"])
    }
    # The task's role has the managed policy and nothing else.
    return found | {
        Permission("TaskRole", *each) for each in _statements(managed["PolicyDocument"])
    }


def _statements(document: dict[str, Any]) -> Iterator[tuple[str, str]]:
    for each in document["Statement"]:
        statement = _chosen(each)
        actions = statement["Action"]
        for action in actions if isinstance(actions, list) else [actions]:
            yield statement["Sid"], action


def _chosen(part: Any) -> Any:
    """Take what is there on a condition as there."""
    return part["Fn::If"][1] if "Fn::If" in part else part


def excuse(permission: Permission) -> tuple[str, str] | None:
    """Return the key of the entry in NOT_ASKED_FOR that speaks of a permission."""
    for role, action in NOT_ASKED_FOR:
        if fnmatchcase(permission.role, role) and fnmatchcase(permission.action, action):
            return role, action
    return None
