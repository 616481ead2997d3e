"""S3 event notifications, as AWS documents and sends them and as the stand-in does."""

import json

import pytest

from lenticular.s3_events import object_keys

# The example of the S3 user guide ("Event message structure"), with a key that needs decoding.
RECORDED = {
    "Records": [
        {
            "eventVersion": "2.1",
            "eventSource": "aws:s3",
            "awsRegion": "us-west-2",
            "eventTime": "1970-01-01T00:00:00.000Z",
            "eventName": "ObjectCreated:Put",
            "userIdentity": {"principalId": "AIDAJDPLRKLG7UEXAMPLE"},
            "requestParameters": {"sourceIPAddress": "127.0.0.1"},
            "responseElements": {"x-amz-request-id": "C3D13FE58DE4C810", "x-amz-id-2": "FMyUVURI"},
            "s3": {
                "s3SchemaVersion": "1.0",
                "configurationId": "testConfigRule",
                "bucket": {
                    "name": "mybucket",
                    "ownerIdentity": {"principalId": "A3NL1KOZZKExample"},
                    "arn": "arn:aws:s3:::mybucket",
                },
                "object": {
                    "key": "instances%2F1.2/red+flower.dcm",
                    "size": 1024,
                    "eTag": "d41d8cd98f00b204e9800998ecf8427e",
                    "versionId": "096fKKXTRTtl3on89fVO.nfljtsv6qko",
                    "sequencer": "0055AED6DCD90281E5",
                },
            },
        }
    ]
}


def test_the_key_is_decoded() -> None:
    assert object_keys(json.dumps(RECORDED)) == ["instances/1.2/red flower.dcm"]


def test_completed_multipart_uploads_count() -> None:
    event = json.loads(json.dumps(RECORDED))
    event["Records"][0]["eventName"] = "ObjectCreated:CompleteMultipartUpload"
    assert len(object_keys(json.dumps(event))) == 1


def test_removals_do_not_count() -> None:
    event = json.loads(json.dumps(RECORDED))
    event["Records"][0]["eventName"] = "ObjectRemoved:Delete"
    assert object_keys(json.dumps(event)) == []


def test_the_event_that_tests_a_new_notification_names_nothing() -> None:
    body = {"Service": "Amazon S3", "Event": "s3:TestEvent", "Bucket": "mybucket"}
    assert object_keys(json.dumps(body)) == []


@pytest.mark.parametrize("body", ["", "[]", "{}", '{"Records": [{}]}', '{"Records": 1}'])
def test_anything_else_is_an_error(body: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - JSONDecodeError is one
        object_keys(body)
