"""What holds patient data is private, encrypted, versioned, and survives the stack."""

from functools import reduce
from typing import Any

import pytest

from lenticular.archive import (
    COMMITMENTS_CHECKED,
    COMMITMENTS_REQUESTED,
    INSTANCES,
    PROCEDURES,
    QUARANTINE,
    TRANSCODED,
)
from lenticular.deletion import DELETED_TAG
from lenticular.forms import RETIRED_TAG
from tests.template.sam import Document, Template, parts, reference

#: Prefixes of the bucket, with their slash.
PREFIXES = (
    *(INSTANCES, QUARANTINE, TRANSCODED, PROCEDURES),
    *(COMMITMENTS_REQUESTED, COMMITMENTS_CHECKED),
)

POLICIES = {
    "AWS::S3::BucketPolicy": ("AWS::S3::Bucket", "Bucket"),
    "AWS::SQS::QueuePolicy": ("AWS::SQS::Queue", "Queues"),
}


@pytest.fixture
def bucket(transformed: Template) -> Document:
    (properties,) = transformed.properties("AWS::S3::Bucket").values()
    return properties


def statements(template: Template, effect: str) -> list[Document]:
    """Return every policy statement of the template with this effect."""
    return [
        part
        for part in parts(template.document)
        if isinstance(part, dict) and part.get("Effect") == effect
    ]


def listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def test_the_bucket_shuts_the_public_out(bucket: Document) -> None:
    assert bucket["PublicAccessBlockConfiguration"] == {
        "BlockPublicAcls": True,
        "BlockPublicPolicy": True,
        "IgnorePublicAcls": True,
        "RestrictPublicBuckets": True,
    }
    assert bucket["OwnershipControls"] == {"Rules": [{"ObjectOwnership": "BucketOwnerEnforced"}]}


def test_the_bucket_keeps_versions_and_encrypts(bucket: Document) -> None:
    assert bucket["VersioningConfiguration"] == {"Status": "Enabled"}
    (rule,) = bucket["BucketEncryption"]["ServerSideEncryptionConfiguration"]
    assert rule["ServerSideEncryptionByDefault"] == {"SSEAlgorithm": "AES256"}


def test_the_bucket_forgets_interrupted_uploads_and_deletes_nothing_else(bucket: Document) -> None:
    rule, *if_retired, _ = bucket["LifecycleConfiguration"]["Rules"]
    assert rule["AbortIncompleteMultipartUpload"] == {"DaysAfterInitiation": 7}
    assert rule.keys() == {"Id", "Status", "AbortIncompleteMultipartUpload"}
    for each in if_retired:
        condition, _, otherwise = each["Fn::If"]
        assert (condition, otherwise) == ("RetiresOriginals", {"Ref": "AWS::NoValue"})
    originals, marks = (each["Fn::If"][1] for each in if_retired)
    # Where originals are retired, what is tagged as such and hidden, and never what can be seen or
    # what was deleted by mistake.
    name, value = RETIRED_TAG
    assert originals.keys() == {
        *("Id", "Status", "Prefix", "TagFilters", "NoncurrentVersionExpiration"),
    }
    assert originals["Prefix"] == INSTANCES
    assert originals["TagFilters"] == [{"Key": name, "Value": value}]
    assert originals["NoncurrentVersionExpiration"] == {"NoncurrentDays": {"Ref": "RetiredDays"}}
    assert marks.keys() == {"Id", "Status", "Prefix", "ExpiredObjectDeleteMarker"}
    assert marks["Prefix"] == INSTANCES


def test_what_an_operator_deleted_ends_by_its_tag(bucket: Document) -> None:
    [rule] = [
        each
        for each in bucket["LifecycleConfiguration"]["Rules"]
        if each.get("Id") == "end-deleted-studies"
    ]
    name, value = DELETED_TAG
    assert rule.keys() == {"Id", "Status", "TagFilters", "NoncurrentVersionExpiration"}
    assert rule["TagFilters"] == [{"Key": name, "Value": value}]
    assert rule["NoncurrentVersionExpiration"] == {"NoncurrentDays": {"Ref": "DeletedDays"}}


def test_bucket_and_table_outlive_the_stack(transformed: Template) -> None:
    for kind in ("AWS::S3::Bucket", "AWS::DynamoDB::Table"):
        for resource in transformed.resources(kind).values():
            assert resource["DeletionPolicy"] in {"Retain", "RetainExceptOnCreate"}
            assert resource["UpdateReplacePolicy"] == "Retain"


@pytest.mark.parametrize("policy", POLICIES)
def test_plain_text_is_denied(transformed: Template, policy: str) -> None:
    kind, target = POLICIES[policy]
    denied = set()
    for properties in transformed.properties(policy).values():
        for statement in properties["PolicyDocument"]["Statement"]:
            if statement.get("Condition") == {"Bool": {"aws:SecureTransport": "false"}}:
                assert (statement["Effect"], statement["Principal"]) == ("Deny", "*")
                denied |= {reference(each) for each in listed(properties[target])}
    assert denied == transformed.resources(kind).keys()


def test_queues_encrypt(transformed: Template) -> None:
    for properties in transformed.properties("AWS::SQS::Queue").values():
        assert properties["SqsManagedSseEnabled"] is True


def test_objects_are_announced_to_the_function_that_reads_them(bucket: Document) -> None:
    announced = bucket["NotificationConfiguration"]["QueueConfigurations"]
    queues = {
        each["Filter"]["S3Key"]["Rules"][0]["Value"]: reference(each["Queue"]) for each in announced
    }
    assert queues == {
        INSTANCES: "IndexQueue",
        QUARANTINE: "IndexQueue",
        PROCEDURES: "ProceduresQueue",
        COMMITMENTS_REQUESTED: "CommitQueue",
    }
    assert {each["Event"] for each in announced} == {"s3:ObjectCreated:*"}


@pytest.mark.parametrize("queue", ["CommitQueue", "IndexQueue", "ProceduresQueue"])
def test_only_this_bucket_of_this_account_may_send_to_a_queue(
    transformed: Template, bucket: Document, queue: str
) -> None:
    policy = transformed.properties("AWS::SQS::QueuePolicy")[f"{queue}Policy"]
    (allowed,) = (
        each for each in policy["PolicyDocument"]["Statement"] if each["Effect"] == "Allow"
    )
    assert allowed["Action"] == "sqs:SendMessage"
    assert allowed["Principal"] == {"Service": "s3.amazonaws.com"}
    source = allowed["Condition"]["ArnEquals"]["aws:SourceArn"]["Fn::Sub"]
    assert source == "arn:${AWS::Partition}:s3:::" + bucket["BucketName"]["Fn::Sub"]
    assert allowed["Condition"]["StringEquals"] == {"aws:SourceAccount": {"Ref": "AWS::AccountId"}}


def test_nothing_is_allowed_on_everything(transformed: Template) -> None:
    allowed = statements(transformed, "Allow")
    assert allowed
    for statement in allowed:
        for action in listed(statement["Action"]):
            assert "*" not in action, statement
        for resource in listed(statement.get("Resource", [])):
            # "/*" at the end of a prefix of one bucket is as narrow as S3 gets.
            text = resource.get("Fn::Sub", "") if isinstance(resource, dict) else resource
            prefixes = (f"/{prefix}*" for prefix in PREFIXES)
            # X-Ray and network interfaces of functions have no resources that a policy could name.
            assert "*" not in reduce(str.removesuffix, prefixes, text) or all(
                action.startswith(("xray:Put", "ec2:")) for action in listed(statement["Action"])
            )


def test_no_role_brings_a_policy_that_aws_wrote_for_every_resource(transformed: Template) -> None:
    for properties in transformed.properties("AWS::IAM::Role").values():
        assert "ManagedPolicyArns" not in properties


def test_a_gateway_writes_items_of_nodes_only(transformed: Template) -> None:
    (policy,) = transformed.properties("AWS::IAM::ManagedPolicy").values()
    writing = [
        statement
        for statement in policy["PolicyDocument"]["Statement"]
        if {"dynamodb:PutItem", "dynamodb:DeleteItem"} & set(listed(statement["Action"]))
    ]
    assert [each["Condition"] for each in writing] == [
        {
            "ForAllValues:StringEquals": {"dynamodb:LeadingKeys": ["NODE"]},
            "Null": {"dynamodb:LeadingKeys": "false"},
        }
    ]


def test_the_commit_function_writes_commitments_only(transformed: Template) -> None:
    role = transformed.properties("AWS::IAM::Role")["CommitFunctionRole"]
    (policy,) = role["Policies"]
    written = {"dynamodb:PutItem", "dynamodb:UpdateItem", "s3:PutObject"}
    writing = [
        (each["Resource"], each.get("Condition"))
        for each in policy["PolicyDocument"]["Statement"]
        if written & set(listed(each["Action"]))
    ]
    assert writing == [
        ({"Fn::Sub": "${ArchiveBucket.Arn}/" + COMMITMENTS_CHECKED + "*"}, None),
        (
            {"Fn::GetAtt": ["Table", "Arn"]},
            {
                "ForAllValues:StringEquals": {"dynamodb:LeadingKeys": ["COMMITMENT"]},
                "Null": {"dynamodb:LeadingKeys": "false"},
            },
        ),
    ]


def test_nobody_may_delete_an_instance_unless_originals_are_retired(
    transformed: Template,
) -> None:
    deleting = {
        name: action
        for name, resource in transformed.document["Resources"].items()
        for part in parts(resource)
        if isinstance(part, dict) and part.get("Effect") == "Allow"
        for action in listed(part["Action"])
        if action.startswith("s3:Delete")
    }
    # A delete marker at most: of a version, nothing gets rid but the bucket's own lifecycle.
    assert deleting == {"RetirePolicy": "s3:DeleteObject"}
    policy = transformed.document["Resources"]["RetirePolicy"]
    assert policy["Condition"] == "RetiresOriginals"
    [statement] = policy["Properties"]["PolicyDocument"]["Statement"]
    assert statement["Action"] == ["s3:DeleteObject", "s3:PutObjectTagging"]
    assert transformed.default({"Ref": "RetireOriginal"}) == "false"
