"""What holds patient data is private, encrypted, versioned, and survives the stack."""

import json
import re
from functools import reduce
from typing import Any

import pytest

from infra.local.template import Stack
from lenticular.archive import (
    COMMITMENTS_CHECKED,
    COMMITMENTS_REQUESTED,
    DELETIONS,
    INSTANCES,
    PROCEDURES,
    QUARANTINE,
    TRANSCODED,
)
from lenticular.deletion import DELETED_TAG, LONGEST_LEASE_SECONDS
from lenticular.forms import RETIRED_TAG
from lenticular.index_keys import LEASE_PREFIX
from tests.template.sam import Document, Template, deployed, names_used, parts, reference

#: Prefixes of the bucket, with their slash.
PREFIXES = (
    *(INSTANCES, QUARANTINE, TRANSCODED, PROCEDURES),
    *(COMMITMENTS_REQUESTED, COMMITMENTS_CHECKED, DELETIONS),
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
    """Return every policy statement of the template with this effect, but those of keys.

    What a key's policy allows on "*" is that key.
    """
    resources = template.document["Resources"].values()
    return [
        part
        for part in parts([each for each in resources if each["Type"] != "AWS::KMS::Key"])
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
    assert reference(rule["BucketKeyEnabled"]["Fn::If"][2]) == "AWS::NoValue"


def encryption(stack: Stack) -> dict[str, list[Any]]:
    """Return how bucket, table, queues, logs and topic of a stack are encrypted, by their type."""
    wanted = {
        "AWS::S3::Bucket": ["BucketEncryption"],
        "AWS::DynamoDB::Table": ["SSESpecification"],
        "AWS::SQS::Queue": ["SqsManagedSseEnabled", "KmsMasterKeyId"],
        "AWS::Logs::LogGroup": ["KmsKeyId"],
        "AWS::SNS::Topic": ["KmsMasterKeyId"],
    }
    return {
        kind: [each.properties for each in stack.of_type(kind, *names)]
        for kind, names in wanted.items()
    }


def test_without_a_key_aws_encrypts_with_its_own(written: Template) -> None:
    found = encryption(deployed(written))
    [bucket] = found["AWS::S3::Bucket"]
    [rule] = bucket["BucketEncryption"]["ServerSideEncryptionConfiguration"]
    assert rule == {"ServerSideEncryptionByDefault": {"SSEAlgorithm": "AES256"}}
    assert found["AWS::DynamoDB::Table"] == [{"SSESpecification": {"SSEEnabled": True}}]
    assert found["AWS::SQS::Queue"] == [{"SqsManagedSseEnabled": True}] * 8
    # What CloudWatch and SNS encrypt without being asked.
    assert not any(found["AWS::Logs::LogGroup"] + found["AWS::SNS::Topic"])
    assert "AWS::KMS::Key" not in deployed(written).types().values()


GIVEN_KEY = "arn:aws:kms:eu-central-1:123456789012:key/0a1b2c3d"


@pytest.mark.parametrize("asked_for", ["create", GIVEN_KEY])
def test_with_a_key_everything_that_can_hold_data_is_encrypted_with_it(
    written: Template, asked_for: str
) -> None:
    stack = deployed(written, KmsKey=asked_for)
    made = [name for name, kind in stack.types().items() if kind == "AWS::KMS::Key"]
    assert made == (["ArchiveKey"] if asked_for == "create" else [])
    key = stack.get_att("ArchiveKey.Arn") if made else GIVEN_KEY
    found = encryption(stack)
    [bucket] = found["AWS::S3::Bucket"]
    [rule] = bucket["BucketEncryption"]["ServerSideEncryptionConfiguration"]
    assert rule == {
        "ServerSideEncryptionByDefault": {"SSEAlgorithm": "aws:kms", "KMSMasterKeyID": key},
        # Or each object is a request to KMS, which is paid for.
        "BucketKeyEnabled": True,
    }
    [table] = found["AWS::DynamoDB::Table"]
    assert table == {
        "SSESpecification": {"SSEEnabled": True, "SSEType": "KMS", "KMSMasterKeyId": key}
    }
    assert found["AWS::SQS::Queue"] == [{"KmsMasterKeyId": key}] * 8
    assert found["AWS::Logs::LogGroup"] == [{"KmsKeyId": key}] * 4
    assert found["AWS::SNS::Topic"] == [{"KmsMasterKeyId": key}]


def test_a_key_is_used_by_way_of_the_services_that_hold_the_data_only(
    transformed: Template, gateway: Template
) -> None:
    allowed = [
        part
        for template in (transformed, gateway)
        for kind in ("AWS::IAM::ManagedPolicy", "AWS::IAM::Policy", "AWS::IAM::Role")
        for part in parts(template.properties(kind))
        if isinstance(part, dict) and part.get("Effect") == "Allow"
        if any(action.startswith("kms:") for action in listed(part["Action"]))
    ]
    assert len(allowed) == 10
    for statement in allowed:
        assert statement["Resource"] != "*"
        for service in listed(statement["Condition"]["StringEquals"]["kms:ViaService"]):
            assert service["Fn::Sub"].endswith(".${AWS::Region}.${AWS::URLSuffix}")
    users = transformed.properties("AWS::IAM::Policy")["FunctionsUseKey"]["Roles"]
    functions = transformed.properties("AWS::Lambda::Function").values()
    assert {reference(role) for role in users} == {reference(each["Role"]) for each in functions}


def test_services_use_the_key_for_this_account_alone_and_the_key_outlives_the_stack(
    transformed: Template,
) -> None:
    key = transformed.document["Resources"]["ArchiveKey"]
    assert key["DeletionPolicy"] == "RetainExceptOnCreate"
    assert key["UpdateReplacePolicy"] == "Retain"
    assert key["Properties"]["EnableKeyRotation"] is True
    account, *services = key["Properties"]["KeyPolicy"]["Statement"]
    assert account["Principal"]["AWS"]["Fn::Sub"].endswith("::${AWS::AccountId}:root")
    for statement in services:
        assert "kms:*" not in listed(statement["Action"])
        assert "${AWS::AccountId}" in str(statement["Condition"]) or statement["Condition"] == {
            "StringEquals": {"aws:SourceAccount": {"Ref": "AWS::AccountId"}}
        }


def transitions(stack: Stack) -> dict[str, list[tuple[str, int]]]:
    """Return the classes that what is below a prefix moves to, and after how many days."""
    [bucket] = stack.of_type("AWS::S3::Bucket", "LifecycleConfiguration")
    return {
        rule["Prefix"]: [
            (each["StorageClass"], int(each["TransitionInDays"])) for each in rule["Transitions"]
        ]
        for rule in bucket.properties["LifecycleConfiguration"]["Rules"]
        if "Transitions" in rule
    }


def test_originals_and_forms_move_to_colder_classes_that_are_read_at_once(
    written: Template,
) -> None:
    cold = [("GLACIER_IR", 120)]
    assert transitions(deployed(written)) == {INSTANCES: cold, TRANSCODED: cold}
    changed = deployed(
        written,
        OriginalsInfrequentDays="90",
        OriginalsGlacierDays="365",
        FormsInfrequentDays="0",
        FormsGlacierDays="0",
    )
    assert transitions(changed) == {INSTANCES: [("STANDARD_IA", 90), ("GLACIER_IR", 365)]}


@pytest.mark.parametrize(
    ("retire", "days", "storage_class"),
    [("false", "120", "GLACIER_IR"), ("true", "120", "STANDARD"), ("false", "0", "STANDARD")],
)
def test_forms_are_cold_at_once_only_where_originals_stay_to_be_read(
    written: Template, retire: str, days: str, storage_class: str
) -> None:
    stack = deployed(written, RetireOriginal=retire, FormsGlacierDays=days)
    classes = {
        variables["LENTICULAR_FORMS_CLASS"]
        for function in stack.of_type("AWS::Lambda::Function", "Environment")
        if (variables := function.properties["Environment"]["Variables"])
        and "LENTICULAR_FORMS_CLASS" in variables
    }
    assert classes == {storage_class}


def test_any_allowed_days_leave_objects_in_a_class_for_as_long_as_s3_asks(
    written: Template,
) -> None:
    parameters = written.document["Parameters"]
    for what in ("Originals", "Forms"):
        infrequent = parameters[f"{what}InfrequentDays"]["AllowedValues"]
        glacier = parameters[f"{what}GlacierDays"]["AllowedValues"]
        assert min(set(infrequent) - {0}) >= 30
        assert min(set(glacier) - {0}) >= max(infrequent) + 30


def test_the_bucket_forgets_interrupted_uploads_and_deletes_nothing_else(bucket: Document) -> None:
    rule, *others, _, marks = bucket["LifecycleConfiguration"]["Rules"]
    if_retired = [each for each in others if "Transitions" not in each["Fn::If"][1]]
    for each in others:
        assert each in if_retired or each["Fn::If"][1].keys() == {
            *("Id", "Status", "Prefix", "Transitions"),
        }
    assert rule["AbortIncompleteMultipartUpload"] == {"DaysAfterInitiation": 7}
    assert rule.keys() == {"Id", "Status", "AbortIncompleteMultipartUpload"}
    [retired] = if_retired
    condition, originals, otherwise = retired["Fn::If"]
    assert (condition, otherwise) == ("RetiresOriginals", {"Ref": "AWS::NoValue"})
    # Where originals are retired, what is tagged as such and hidden, and never what can be seen or
    # what was deleted by mistake.
    name, value = RETIRED_TAG
    assert originals.keys() == {
        *("Id", "Status", "Prefix", "TagFilters", "NoncurrentVersionExpiration"),
    }
    assert originals["Prefix"] == INSTANCES
    assert originals["TagFilters"] == [{"Key": name, "Value": value}]
    assert originals["NoncurrentVersionExpiration"] == {"NoncurrentDays": {"Ref": "RetiredDays"}}
    # A mark, and nothing that has a byte.
    assert marks.keys() == {"Id", "Status", "ExpiredObjectDeleteMarker"}


@pytest.mark.parametrize("retire", ["true", "false"])
def test_marks_that_hide_nothing_end_wherever_deleting_leaves_them(
    written: Template, retire: str
) -> None:
    [bucket] = deployed(written, RetireOriginal=retire).of_type(
        "AWS::S3::Bucket", "LifecycleConfiguration"
    )
    [rule] = [
        each
        for each in bucket.properties["LifecycleConfiguration"]["Rules"]
        if each.get("ExpiredObjectDeleteMarker")
    ]
    # Below any prefix: a deletion marks originals and forms.
    assert (rule["Status"], rule.get("Prefix", "")) == ("Enabled", "")


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


@pytest.mark.parametrize("key", ["", "create"])
def test_what_was_encrypted_with_a_former_key_is_read_and_no_more_is_done_with_it(
    written: Template, gateway: Template, key: str
) -> None:
    stack = deployed(written, KmsKey=key, FormerKmsKeys=f"{GIVEN_KEY},{GIVEN_KEY}2")
    [functions] = (
        each.properties
        for each in stack.of_type("AWS::IAM::Policy", "Roles", "PolicyDocument")
        if each.logical_id == "FunctionsReadWithFormerKeys"
    )
    assert len(functions["Roles"]) == len(written.resources("AWS::Serverless::Function"))
    [people] = (
        each.properties
        for each in stack.of_type("AWS::IAM::ManagedPolicy", "PolicyDocument")
        if each.logical_id == "ReaderPolicy"
    )
    given = written.properties("AWS::CloudFormation::Stack")["Gateway"]["Parameters"]
    values = {
        name: str(each.get("AllowedValues", ["1"])[0])
        for name, each in gateway.document["Parameters"].items()
    }
    values["FormerKmsKeyArns"] = str(stack.resolve(given["FormerKmsKeyArns"]))
    [task] = (
        {"PolicyDocument": policy["PolicyDocument"]}
        for role in deployed(gateway, **values).of_type("AWS::IAM::Role", "Policies")
        for policy in role.properties["Policies"]
        if policy["PolicyName"] == "read-with-former-keys"
    )
    for holder in (functions, people, task):
        [statement] = (
            each
            for each in holder["PolicyDocument"]["Statement"]
            if each["Sid"] == "ReadWithFormerKeys"
        )
        assert statement["Action"] == "kms:Decrypt"
        assert statement["Resource"] == [GIVEN_KEY, f"{GIVEN_KEY}2"]
        assert "kms:ViaService" in statement["Condition"]["StringEquals"]
    assert "ReadWithFormerKeys" not in str(
        [each.properties for each in deployed(written).of_type("AWS::IAM::Policy")]
    )


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
            # One log group is named with its streams.
            text = text.removesuffix("${Gateway.Outputs.AuditLogName}:*")
            # X-Ray, network interfaces of functions and the list of queues have no resources that a
            # policy could name.
            assert "*" not in reduce(str.removesuffix, prefixes, text) or all(
                action.startswith(("xray:Put", "ec2:", "sqs:ListQueues"))
                for action in listed(statement["Action"])
            )


def test_no_role_brings_a_policy_that_aws_wrote_for_every_resource(transformed: Template) -> None:
    for properties in transformed.properties("AWS::IAM::Role").values():
        assert "ManagedPolicyArns" not in properties


def test_a_gateway_writes_items_of_nodes_only(transformed: Template) -> None:
    policy = transformed.properties("AWS::IAM::ManagedPolicy")["GatewayPolicy"]
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


def test_who_ends_leases_removes_nothing_else_from_the_table(transformed: Template) -> None:
    removing = {
        (name, str(statement["Condition"]))
        for name, role in transformed.properties("AWS::IAM::Role").items()
        for policy in role["Policies"]
        for statement in policy["PolicyDocument"]["Statement"]
        if "dynamodb:DeleteItem" in listed(statement["Action"])
    }
    leases = {
        "ForAllValues:StringLike": {"dynamodb:LeadingKeys": [f"{LEASE_PREFIX}*"]},
        "Null": {"dynamodb:LeadingKeys": "false"},
    }
    assert removing == {
        ("IndexFunctionRole", str(leases)),
        ("TranscodeFunctionRole", str(leases)),
    }


def test_a_deletion_waits_for_longer_than_any_function_runs(written: Template) -> None:
    functions = written.properties("AWS::Serverless::Function").values()
    assert max(each["Timeout"] for each in functions) + 60 <= LONGEST_LEASE_SECONDS


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
        (name, action)
        for name, resource in transformed.document["Resources"].items()
        for part in parts(resource)
        if isinstance(part, dict) and part.get("Effect") == "Allow"
        for action in listed(part["Action"])
        if action.startswith("s3:Delete")
    }
    # A delete marker at most: of a version, nothing gets rid but the bucket's own lifecycle, and
    # people who take markers away.
    assert {each for each in deleting if each[0] not in PEOPLE} == {
        ("RetirePolicy", "s3:DeleteObject")
    }
    policy = transformed.document["Resources"]["RetirePolicy"]
    assert policy["Condition"] == "RetiresOriginals"
    [statement] = policy["Properties"]["PolicyDocument"]["Statement"]
    assert statement["Action"] == ["s3:DeleteObject", "s3:PutObjectTagging"]
    assert transformed.default({"Ref": "RetireOriginal"}) == "false"


#: Policies for people, which no function or task has.
PEOPLE = ("ReaderPolicy", "OperatorPolicy", "DeleterPolicy")


def test_no_function_and_no_task_may_do_what_people_may(transformed: Template) -> None:
    assert names_used(transformed.document["Resources"]).isdisjoint(PEOPLE)
    for name in PEOPLE:
        properties = transformed.properties("AWS::IAM::ManagedPolicy")[name]
        assert properties.keys() == {"Description", "PolicyDocument"}


def test_readers_change_nothing_and_of_people_only_deleters_delete_instances(
    transformed: Template,
) -> None:
    policies = transformed.properties("AWS::IAM::ManagedPolicy")
    said = {
        name: [
            (action, str(each["Resource"]))
            for part in policies[name]["PolicyDocument"]["Statement"]
            for each in [part["Fn::If"][1] if "Fn::If" in part else part]
            for action in listed(each["Action"])
        ]
        for name in PEOPLE
    }
    changing = re.compile(r"\w+:(?!Get|List|Query|Scan|Receive|ChangeMessageVisibility|Describe)")
    # What it takes to have a key used for reading.
    assert {
        action.split(":")[0] for action, _ in said["ReaderPolicy"] if changing.match(action)
    } == {"kms"}
    assert [place for action, place in said["OperatorPolicy"] if action == "s3:DeleteObject"] == [
        str({"Fn::Sub": "${ArchiveBucket.Arn}/" + QUARANTINE + "*"})
    ]
    assert not [action for action, _ in said["OperatorPolicy"] if "DeleteObjectVersion" in action]


def test_the_policies_of_people_are_no_longer_than_iam_allows(transformed: Template) -> None:
    # 6,144 characters without white space, with names of the lengths that AWS gives.
    for name, properties in transformed.properties("AWS::IAM::ManagedPolicy").items():
        text = json.dumps(properties["PolicyDocument"]).replace(" ", "")
        arns = text.count("Arn")
        assert len(text) + 80 * arns < 6144, name
