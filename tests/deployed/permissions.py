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


#: Whose the managed policies are: the task's, which has no other, and people's.
READERS: Final = "Readers"
OPERATORS: Final = "Operators"
HOLDERS: Final = {
    "GatewayPolicy": "TaskRole",
    "ReaderPolicy": READERS,
    "OperatorPolicy": OPERATORS,
    "DeleterPolicy": OPERATORS,
}

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
    ("Operators", "dynamodb:UpdateItem"): "when what was in quarantine can be placed",
    ("Operators", "s3:AbortMultipartUpload"): "after an upload that failed",
    ("Operators", "s3:DeleteObject"): "of quarantine when its object is placed, of records when "
    "two deletions of a study begin at once",
    ("Operators", "s3:GetObjectVersionTagging"): "when a study was sent again as it was deleted",
    ("Operators", "s3:PutObject"): "when what was in quarantine can be placed",
    ("Operators", "s3:PutObjectTagging"): "AWS asks for it of a PUT with a tag, ministack does not",
    ("TaskRole", "s3:AbortMultipartUpload"): "after an upload that failed",
    ("TranscodeFunctionRole", "s3:AbortMultipartUpload"): "after an upload that failed",
}


def declared(template: Template, gateway: Template) -> set[Permission]:
    """Return what the main template and the gateway's permit, conditions aside."""
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
    return found | {
        Permission(HOLDERS[name], *each)
        for name, managed in template.properties("AWS::IAM::ManagedPolicy").items()
        for each in _statements(managed["PolicyDocument"])
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
