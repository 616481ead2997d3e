"""What the offline stand-in creates is what the template says."""

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError
from mypy_boto3_dynamodb import DynamoDBClient
from mypy_boto3_s3 import S3Client
from mypy_boto3_sqs import SQSClient

from infra.local import ROOT
from infra.local.cloud import CloudError, create
from infra.local.template import Json, Site, Stack, TemplateError, read_template
from tests.cloud.standin import OfflineCloud


@pytest.fixture(scope="module")
def node_stack(cloud: OfflineCloud) -> Stack:
    """Create the resources of the node's own template."""
    return cloud.stack(ROOT / "template.yaml", IndexMaxReceiveCount="7", BucketPrefix="standin")


@pytest.fixture
def s3(cloud: OfflineCloud) -> S3Client:
    return cloud.clients.s3


@pytest.fixture
def sqs(cloud: OfflineCloud) -> SQSClient:
    return cloud.clients.sqs


@pytest.fixture
def dynamodb(cloud: OfflineCloud) -> DynamoDBClient:
    return cloud.clients.dynamodb


@pytest.fixture
def bucket(node_stack: Stack) -> str:
    return node_stack.output("BucketName")


def test_the_bucket_is_versioned_encrypted_and_closed(s3: S3Client, bucket: str) -> None:
    assert bucket == "standin-123456789012-us-east-1"
    assert s3.get_bucket_versioning(Bucket=bucket)["Status"] == "Enabled"
    encryption = s3.get_bucket_encryption(Bucket=bucket)["ServerSideEncryptionConfiguration"]
    [rule] = encryption["Rules"]
    assert rule["ApplyServerSideEncryptionByDefault"] == {"SSEAlgorithm": "AES256"}
    block = s3.get_public_access_block(Bucket=bucket)["PublicAccessBlockConfiguration"]
    assert set(block.values()) == {True}
    rules = s3.get_bucket_lifecycle_configuration(Bucket=bucket)["Rules"]
    uploads, originals, forms, deleted, marks = rules
    assert uploads["ID"] == "forget-interrupted-uploads"
    assert uploads["AbortIncompleteMultipartUpload"] == {"DaysAfterInitiation": 7}
    assert (originals["ID"], forms["ID"]) == ("move-originals", "move-forms")
    assert deleted["ID"] == "end-deleted-studies"
    assert deleted["Filter"] == {"Tag": {"Key": "deleted", "Value": "true"}}
    assert marks["Filter"] == {"Prefix": ""}
    assert marks["Expiration"] == {"ExpiredObjectDeleteMarker": True}
    for moved in (originals, forms):
        assert moved["Transitions"] == [{"StorageClass": "GLACIER_IR", "Days": 120}]


def test_a_key_is_named_in_what_it_encrypts(cloud: OfflineCloud, s3: S3Client) -> None:
    stack = cloud.stack(ROOT / "template.yaml", BucketPrefix="standin-key", KmsKey="create")
    bucket = stack.name("ArchiveBucket")
    found = s3.get_bucket_encryption(Bucket=bucket)["ServerSideEncryptionConfiguration"]
    [rule] = found["Rules"]
    assert rule["ApplyServerSideEncryptionByDefault"] == {
        "SSEAlgorithm": "aws:kms",
        "KMSMasterKeyID": stack.get_att("ArchiveKey.Arn"),
    }


def test_the_bucket_ends_only_what_is_tagged_as_retired(cloud: OfflineCloud, s3: S3Client) -> None:
    stack = cloud.stack(
        ROOT / "template.yaml", BucketPrefix="standin-retiring", RetireOriginal="true"
    )
    rules = s3.get_bucket_lifecycle_configuration(Bucket=stack.name("ArchiveBucket"))["Rules"]
    *_, originals, _, _ = rules
    assert originals["Filter"] == {
        "And": {"Prefix": "instances/", "Tags": [{"Key": "retired", "Value": "true"}]}
    }
    assert originals["NoncurrentVersionExpiration"]["NoncurrentDays"] >= 1


def test_the_bucket_notifies_the_queue_of_each_prefix(
    s3: S3Client, bucket: str, node_stack: Stack
) -> None:
    notifications = s3.get_bucket_notification_configuration(Bucket=bucket)
    assert {
        (
            queue["QueueArn"],
            *queue["Events"],
            queue["Filter"]["Key"]["FilterRules"][0]["Value"],
        )
        for queue in notifications["QueueConfigurations"]
    } == {
        (node_stack.get_att(f"{queue}.Arn"), "s3:ObjectCreated:*", prefix)
        for queue, prefix in (
            ("IndexQueue", "instances/"),
            ("IndexQueue", "quarantine/"),
            ("ProceduresQueue", "procedures/"),
            ("CommitQueue", "commitments/requested/"),
        )
    }


def test_a_policy_that_asks_for_tls_does_not_lock_out_plain_http(s3: S3Client, bucket: str) -> None:
    s3.put_object(Bucket=bucket, Key="elsewhere/1", Body=b"x")
    assert s3.get_object(Bucket=bucket, Key="elsewhere/1")["Body"].read() == b"x"


def test_the_queue_hands_dead_letters_on(sqs: SQSClient, node_stack: Stack) -> None:
    url = node_stack.output("IndexQueueUrl")
    attributes = sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["All"])["Attributes"]
    assert json.loads(attributes["RedrivePolicy"]) == {
        "deadLetterTargetArn": node_stack.get_att("IndexDeadLetterQueue.Arn"),
        "maxReceiveCount": 7,
    }
    assert attributes["VisibilityTimeout"] == "420"
    assert attributes["MessageRetentionPeriod"] == "1209600"
    statements = json.loads(attributes["Policy"])["Statement"]
    assert {statement["Sid"] for statement in statements} == {"ArchiveSends", "DenyPlainText"}


def test_the_table_has_its_indexes(dynamodb: DynamoDBClient, node_stack: Stack) -> None:
    name = node_stack.output("TableName")
    table = dynamodb.describe_table(TableName=name)["Table"]
    written = read_template(ROOT / "template.yaml")["Resources"]["Table"]["Properties"]
    assert table["KeySchema"] == written["KeySchema"]
    assert table["DeletionProtectionEnabled"] is True
    assert table["BillingModeSummary"]["BillingMode"] == "PAY_PER_REQUEST"
    made = {
        index["IndexName"]: (index["KeySchema"], index["Projection"])
        for index in table["GlobalSecondaryIndexes"]
    }
    assert made == {
        index["IndexName"]: (index["KeySchema"], index["Projection"])
        for index in written["GlobalSecondaryIndexes"]
    }
    backups = dynamodb.describe_continuous_backups(TableName=name)["ContinuousBackupsDescription"]
    recovery = backups["PointInTimeRecoveryDescription"]["PointInTimeRecoveryStatus"]
    assert recovery == "ENABLED"


def _created(cloud: OfflineCloud, resources: dict[str, Any], stack: str) -> Stack:
    document = {"Transform": "AWS::Serverless-2016-10-31", "Resources": resources}
    made = Stack(document, {}, Site(cloud.endpoint, stack=stack))
    create(made, cloud.clients)
    return made


def _table(**properties: Json) -> dict[str, Any]:
    return {
        "Type": "AWS::DynamoDB::Table",
        "Properties": {
            "BillingMode": "PAY_PER_REQUEST",
            "AttributeDefinitions": [{"AttributeName": "pk", "AttributeType": "S"}],
            "KeySchema": [{"AttributeName": "pk", "KeyType": "HASH"}],
            **properties,
        },
    }


def test_every_lifecycle_rule_is_put_into_the_words_of_the_api(
    cloud: OfflineCloud, s3: S3Client
) -> None:
    rules = [
        {
            "Id": "all", "Status": "Enabled", "Prefix": "old/", "ExpirationInDays": "30",
            "Transitions": [{"StorageClass": "GLACIER", "TransitionInDays": 10}],
            "NoncurrentVersionExpiration": {"NoncurrentDays": 5},
            "NoncurrentVersionTransitions": [{"StorageClass": "GLACIER", "TransitionInDays": 3}],
        },
    ]  # fmt: skip
    bucket = {
        "Type": "AWS::S3::Bucket",
        "Properties": {
            "LifecycleConfiguration": {"Rules": rules},
            "Tags": [{"Key": "a", "Value": "b"}],
        },
    }
    stack = _created(cloud, {"Bucket": bucket}, "lifecycle")
    assert stack.name("Bucket") == "lifecycle-bucket"
    [rule] = s3.get_bucket_lifecycle_configuration(Bucket="lifecycle-bucket")["Rules"]
    assert rule["ID"] == "all"
    assert rule["Filter"] == {"Prefix": "old/"}
    assert rule["Expiration"]["Days"] == 30
    assert rule["Transitions"] == [{"StorageClass": "GLACIER", "Days": 10}]
    assert rule["NoncurrentVersionExpiration"] == {"NoncurrentDays": 5}
    [transition] = rule["NoncurrentVersionTransitions"]
    assert transition == {"StorageClass": "GLACIER", "NoncurrentDays": 3}
    assert s3.get_bucket_tagging(Bucket="lifecycle-bucket")["TagSet"] == [
        {"Key": "a", "Value": "b"}
    ]


def test_a_table_may_have_a_stream_and_an_expiry(
    cloud: OfflineCloud, dynamodb: DynamoDBClient
) -> None:
    table = _table(
        StreamSpecification={"StreamViewType": "NEW_IMAGE"},
        TimeToLiveSpecification={"AttributeName": "expires", "Enabled": "true"},
    )
    _created(cloud, {"T": table}, "expiry")
    described = dynamodb.describe_table(TableName="expiry-T")["Table"]
    assert described["StreamSpecification"] == {
        "StreamEnabled": True, "StreamViewType": "NEW_IMAGE",
    }  # fmt: skip
    expiry = dynamodb.describe_time_to_live(TableName="expiry-T")["TimeToLiveDescription"]
    assert expiry == {"TimeToLiveStatus": "ENABLED", "AttributeName": "expires"}


def test_a_table_that_is_there_already_keeps_its_items(
    cloud: OfflineCloud, dynamodb: DynamoDBClient
) -> None:
    resources = {"T": _table()}
    _created(cloud, resources, "kept")
    dynamodb.put_item(TableName="kept-T", Item={"pk": {"S": "a"}})
    _created(cloud, resources, "kept")
    assert dynamodb.scan(TableName="kept-T")["Count"] == 1


@pytest.mark.parametrize(
    ("resource", "sentence"),
    [
        ({"Type": "AWS::S3::Bucket", "Properties": {"WebsiteConfiguration": {}}},
         "R has WebsiteConfiguration, which is not run offline"),
        ({"Type": "AWS::S3::Bucket",
          "Properties": {"NotificationConfiguration": {"TopicConfigurations": []}}},
         "notifies by TopicConfigurations, which is not run offline"),
        (_table(Colour="red"), "CreateTable has no Colour: it is not run offline"),
    ],
)  # fmt: skip
def test_a_property_that_would_be_dropped_is_refused(
    cloud: OfflineCloud, resource: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(TemplateError, match=sentence):
        _created(cloud, {"R": resource}, "refused")


def test_what_the_service_refuses_is_told_with_its_own_reason(cloud: OfflineCloud) -> None:
    bucket = {"Type": "AWS::S3::Bucket", "Properties": {"BucketName": "No"}}
    with pytest.raises(CloudError, match=r"B could not be created: .*bucket"):
        _created(cloud, {"B": bucket}, "invalid")


def test_of_many_conditional_writes_of_one_key_one_succeeds(s3: S3Client, bucket: str) -> None:
    def put(number: int) -> bool:
        try:
            s3.put_object(Bucket=bucket, Key="elsewhere/once", Body=b"%d" % number, IfNoneMatch="*")
        except ClientError:
            return False
        return True

    with ThreadPoolExecutor(8) as writing:
        assert sum(writing.map(put, range(40))) == 1


def test_concurrent_updates_of_one_item_are_all_counted(
    cloud: OfflineCloud, dynamodb: DynamoDBClient
) -> None:
    _created(cloud, {"T": _table()}, "counting")

    def add(_number: int) -> None:
        dynamodb.update_item(
            TableName="counting-T",
            Key={"pk": {"S": "a"}},
            UpdateExpression="ADD seen :one",
            ExpressionAttributeValues={":one": {"N": "1"}},
        )

    with ThreadPoolExecutor(8) as writing:
        list(writing.map(add, range(100)))
    item = dynamodb.get_item(TableName="counting-T", Key={"pk": {"S": "a"}})["Item"]
    assert item["seen"] == {"N": "100"}


def test_a_range_and_a_head_come_back_as_s3_gives_them(
    s3: S3Client, bucket: str, tmp_path: Path
) -> None:
    body = bytes(range(256)) * 4096
    s3.put_object(Bucket=bucket, Key="elsewhere/range", Body=body, Metadata={"received": "now"})
    head = s3.head_object(Bucket=bucket, Key="elsewhere/range")
    assert (head["ContentLength"], head["Metadata"]) == (len(body), {"received": "now"})
    part = s3.get_object(Bucket=bucket, Key="elsewhere/range", Range="bytes=256-511")
    assert part["Body"].read() == bytes(range(256))
    assert part["ContentRange"] == f"bytes 256-511/{len(body)}"
    # More than one part: uploaded in chunks, downloaded in ranges.
    large = tmp_path / "large"
    large.write_bytes(body * 12)
    s3.upload_file(str(large), bucket, "elsewhere/large")
    s3.download_file(bucket, "elsewhere/large", str(tmp_path / "again"))
    assert (tmp_path / "again").read_bytes() == body * 12
    s3.delete_object(Bucket=bucket, Key="elsewhere/large")
    with pytest.raises(ClientError, match="404"):
        s3.head_object(Bucket=bucket, Key="elsewhere/large")
