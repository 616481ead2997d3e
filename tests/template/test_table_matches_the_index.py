"""The table's keys and secondary indexes are the ones the package reads and writes."""

import pytest

from tests.template.sam import Document, Template

#: name: (partition key, sort key, what is copied into it)
SECONDARY_INDEXES = {
    "by-patient": ("patient_id", "study_moment", "ALL"),
    "by-accession": ("accession_number", "study_moment", "ALL"),
    "by-date": ("study_month", "study_moment", "ALL"),
    "by-name": ("name_initial", "name_folded", "ALL"),
    "by-uid": ("uid", None, "KEYS_ONLY"),
    "by-procedure": ("procedure_month", "procedure_moment", "ALL"),
}
#: Read by commands of the operator, not by the gateway.
OF_OPERATORS = {"by-procedure"}


@pytest.fixture
def table(transformed: Template) -> Document:
    (properties,) = transformed.properties("AWS::DynamoDB::Table").values()
    return properties


def key_of(schema: list[Document]) -> tuple[str, str | None]:
    by_type = {each["KeyType"]: each["AttributeName"] for each in schema}
    return by_type["HASH"], by_type.get("RANGE")


def test_items_are_found_by_partition_and_sort_key(table: Document) -> None:
    assert key_of(table["KeySchema"]) == ("pk", "sk")


def test_the_secondary_indexes_are_exactly_these(table: Document) -> None:
    found = {
        index["IndexName"]: (*key_of(index["KeySchema"]), index["Projection"]["ProjectionType"])
        for index in table["GlobalSecondaryIndexes"]
    }
    assert found == SECONDARY_INDEXES
    assert "LocalSecondaryIndexes" not in table
    assert "StreamSpecification" not in table


def test_every_key_attribute_is_text(table: Document) -> None:
    assert {each["AttributeType"] for each in table["AttributeDefinitions"]} == {"S"}


def test_the_table_is_paid_by_request_and_can_be_brought_back(table: Document) -> None:
    assert table["BillingMode"] == "PAY_PER_REQUEST"
    assert table["PointInTimeRecoverySpecification"] == {"PointInTimeRecoveryEnabled": True}
    assert table["DeletionProtectionEnabled"] is True


def test_a_gateway_may_query_every_index_and_scan_studies_only(transformed: Template) -> None:
    policy = transformed.properties("AWS::IAM::ManagedPolicy")["GatewayPolicy"]
    by_sid = {each["Sid"]: each for each in policy["PolicyDocument"]["Statement"]}
    queried = {each["Fn::Sub"] for each in by_sid["QuerySecondaryIndexes"]["Resource"]}
    assert queried == {
        f"${{Table.Arn}}/index/{name}" for name in SECONDARY_INDEXES.keys() - OF_OPERATORS
    }
    assert by_sid["ScanStudies"]["Action"] == "dynamodb:Scan"
    assert by_sid["ScanStudies"]["Resource"] == {"Fn::Sub": "${Table.Arn}/index/by-date"}
