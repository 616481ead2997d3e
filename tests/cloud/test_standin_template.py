"""The offline stand-in reads a template as CloudFormation would."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from infra.local import ROOT
from infra.local.functions import drives
from infra.local.template import Json, Site, Stack, TemplateError, read_template
from tests.cloud.standin import DATA

SITE = Site("http://127.0.0.1:1", stack="stack")


def _stack(
    values: dict[str, Any] | None = None, given: dict[str, str] | None = None, **sections: Json
) -> Stack:
    """Make a stack of a bucket, a queue, a topic and a thing with the values."""
    document = {
        "AWSTemplateFormatVersion": "2010-09-09",
        "Transform": "AWS::Serverless-2016-10-31",
        "Resources": {
            "Bucket": {"Type": "AWS::S3::Bucket", "Properties": {"BucketName": "my-bucket"}},
            "Queue": {"Type": "AWS::SQS::Queue"},
            "Vpc": {"Type": "AWS::EC2::VPC"},
            "Thing": {"Type": "Some::Thing", "Properties": values or {}},
        },
        **sections,
    }
    return Stack(document, given or {}, SITE)


def _value(value: Json, given: dict[str, str] | None = None, **sections: Json) -> Json:
    return _stack({"Value": value}, given, **sections).of_type("Some::Thing")[0].properties["Value"]


MAPPINGS = {"ByRegion": {"us-east-1": {"Size": "small", "Zones": ["a", "b"]}}}
CONDITIONS = {
    "IsSmall": {"Fn::Equals": [{"Ref": "Size"}, "small"]},
    "IsLarge": {"Fn::Not": [{"Condition": "IsSmall"}]},
    "Either": {"Fn::Or": [{"Condition": "IsSmall"}, {"Condition": "IsLarge"}]},
    "Both": {"Fn::And": [{"Condition": "IsSmall"}, {"Condition": "IsLarge"}]},
}
PARAMETERS = {
    "Size": {"Type": "String", "Default": "small", "AllowedValues": ["small", "large"]},
    "Count": {"Type": "Number", "Default": 3, "MinValue": 1, "MaxValue": 9},
    "Names": {"Type": "CommaDelimitedList", "Default": "a, b"},
}


@pytest.mark.parametrize(
    ("written", "resolved"),
    [
        ({"Ref": "AWS::Region"}, "us-east-1"),
        ({"Ref": "AWS::AccountId"}, "123456789012"),
        ({"Ref": "AWS::StackName"}, "stack"),
        ({"Ref": "Size"}, "small"),
        ({"Ref": "Count"}, "3"),
        ({"Ref": "Names"}, ["a", "b"]),
        ({"Ref": "Bucket"}, "my-bucket"),
        ({"Ref": "Queue"}, "http://127.0.0.1:1/123456789012/stack-Queue"),
        ({"Fn::GetAtt": ["Bucket", "Arn"]}, "arn:aws:s3:::my-bucket"),
        ({"Fn::GetAtt": "Queue.Arn"}, "arn:aws:sqs:us-east-1:123456789012:stack-Queue"),
        ({"Fn::GetAtt": ["Queue", "QueueName"]}, "stack-Queue"),
        ({"Fn::Sub": "${Bucket}/${AWS::Region}/${Queue.QueueName}"},
         "my-bucket/us-east-1/stack-Queue"),
        ({"Fn::Sub": "${!Literal} $ {} ${ Size }"}, "${Literal} $ {} small"),
        ({"Fn::Sub": ["${Own}-${Size}", {"Own": {"Ref": "Count"}}]}, "3-small"),
        ({"Fn::Join": ["-", ["a", {"Ref": "Size"}, "b"]]}, "a-small-b"),
        ({"Fn::Join": ["", {"Ref": "Names"}]}, "ab"),
        ({"Fn::Split": ["-", {"Ref": "Bucket"}]}, ["my", "bucket"]),
        ({"Fn::Select": ["1", {"Fn::Split": ["-", "a-b"]}]}, "b"),
        ({"Fn::FindInMap": ["ByRegion", {"Ref": "AWS::Region"}, "Size"]}, "small"),
        ({"Fn::FindInMap": ["ByRegion", "us-east-1", "Zones"]}, ["a", "b"]),
        ({"Fn::If": ["IsSmall", "yes", "no"]}, "yes"),
        ({"Fn::If": ["IsLarge", {"Ref": "Nowhere"}, "no"]}, "no"),
        ({"Fn::If": ["Either", "yes", "no"]}, "yes"),
        ({"Fn::If": ["Both", "yes", "no"]}, "no"),
        ({"a": {"Ref": "AWS::NoValue"}, "b": [1, {"Ref": "AWS::NoValue"}, True]}, {"b": [1, True]}),
    ],
)  # fmt: skip
def test_intrinsic_functions_have_the_value_cloudformation_gives(
    written: Json, resolved: Json
) -> None:
    stack_value = _value(written, Mappings=MAPPINGS, Conditions=CONDITIONS, Parameters=PARAMETERS)
    assert stack_value == resolved


@pytest.mark.parametrize(
    ("written", "sentence"),
    [
        ({"Ref": "Nowhere"}, "refers to Nowhere, which it does not have"),
        ({"Fn::GetAtt": ["Queue", "Colour"]}, r"Queue\.Colour, which has no value offline"),
        ({"Fn::Sub": "${Nowhere.Arn}"}, "refers to Nowhere"),
        ({"Ref": "Vpc"}, "Vpc, but a AWS::EC2::VPC has no name offline"),
        ({"Fn::ImportValue": "x"}, "Fn::ImportValue, which is not run offline"),
        ({"Fn::FindInMap": ["ByRegion", "nowhere", "Size"]}, "no ByRegion / nowhere / Size"),
        ({"Fn::If": ["Nothing", 1, 2]}, "no condition Nothing"),
        ({"Fn::Select": [2, ["a", "b"]]}, "selects entry 2 of 2"),
    ],
)
def test_a_value_that_cannot_be_had_is_told_in_a_sentence(written: Json, sentence: str) -> None:
    with pytest.raises(TemplateError, match=sentence):
        _value(written, Mappings=MAPPINGS)


@pytest.mark.parametrize(
    ("given_", "sentence"),
    [
        ({"Colour": "red"}, "no parameter Colour; it has: Count, Names, Size"),
        ({"Size": "huge"}, "Size must be one of small, large, and 'huge' is not"),
        ({"Count": "many"}, "Count must be a number"),
        ({"Count": "10"}, "Count must be from 1 to 9"),
    ],
)
def test_a_parameter_that_is_not_allowed_is_told_in_a_sentence(
    given_: dict[str, str], sentence: str
) -> None:
    with pytest.raises(TemplateError, match=sentence):
        _stack(given=given_, Parameters=PARAMETERS)


def test_a_parameter_that_breaks_its_pattern_is_told_in_the_templates_own_words() -> None:
    mail = {"Type": "String", "AllowedPattern": ".+@.+", "ConstraintDescription": "must be a mail"}
    with pytest.raises(TemplateError, match="Mail must be a mail, and 'me' is not"):
        _stack(given={"Mail": "me"}, Parameters={"Mail": mail})


def test_a_parameter_without_a_default_must_be_given() -> None:
    with pytest.raises(TemplateError, match="give it with --set Journal=VALUE"):
        _stack(Parameters={"Journal": {"Type": "String"}})


def test_a_resource_whose_condition_does_not_hold_is_not_there() -> None:
    stack = _stack(
        Conditions={"Never": {"Fn::Equals": ["a", "b"]}},
        Resources={"Queue": {"Type": "AWS::SQS::Queue", "Condition": "Never"}},
    )
    assert stack.types() == {}
    with pytest.raises(TemplateError, match="refers to Queue"):
        stack.ref("Queue")


def test_what_is_not_asked_for_is_not_resolved() -> None:
    stack = _stack({"Good": 1, "Bad": {"Ref": "Nowhere"}})
    [thing] = stack.of_type("Some::Thing", "Good")
    assert thing.properties == {"Good": 1}


def test_short_tags_are_read_and_a_policys_date_stays_text(tmp_path: Path) -> None:
    template = tmp_path / "template.yaml"
    template.write_text(
        "Resources:\n"
        "  R:\n"
        "    Version: 2012-10-17\n"
        "    A: !Ref X\n"
        "    B: !GetAtt X.Arn.Part\n"
        "    C: !Sub ['${a}', {a: !Select [0, [1]]}]\n"
        "    D: !Condition Y\n"
    )
    assert read_template(template)["Resources"]["R"] == {
        "Version": "2012-10-17",
        "A": {"Ref": "X"},
        "B": {"Fn::GetAtt": ["X", "Arn.Part"]},
        "C": {"Fn::Sub": ["${a}", {"a": {"Fn::Select": [0, [1]]}}]},
        "D": {"Condition": "Y"},
    }


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (None, "cannot be read: No such file"),
        ("a: [", "is not valid YAML at line"),
        ("- a", "has no Resources"),
    ],
)
def test_a_template_that_cannot_be_read_is_told_in_a_sentence(
    tmp_path: Path, text: str | None, sentence: str
) -> None:
    template = tmp_path / "template.yaml"
    if text is not None:
        template.write_text(text)
    with pytest.raises(TemplateError, match=sentence):
        read_template(template)


def test_what_sam_refuses_is_told_in_a_sentence() -> None:
    function = {"Type": "AWS::Serverless::Function", "Properties": {"Events": {"E": {}}}}
    with pytest.raises(TemplateError, match="SAM does not take the template"):
        _stack(Resources={"F": function})


plain = st.text(st.characters(exclude_characters="$", codec="utf-8"), max_size=20)


@given(plain)
def test_sub_changes_nothing_where_nothing_is_substituted(text: str) -> None:
    assert STACK.sub(text) == text


@given(plain, plain, plain)
def test_sub_puts_a_value_in_its_place_whatever_stands_around_it(
    before: str, value: str, after: str
) -> None:
    assert STACK.sub([before + "${V}" + after, {"V": value}]) == before + value + after


@given(st.lists(st.text("ab-", max_size=5), min_size=1), st.sampled_from(",;/"))
def test_join_undoes_split(parts: list[str], delimiter: str) -> None:
    text = delimiter.join(parts)
    split = {"Fn::Split": [delimiter, text]}
    assert STACK.resolve(split) == parts
    assert STACK.resolve({"Fn::Join": [delimiter, split]}) == text


STACK = _stack()


def _function_with(event: dict[str, Any]) -> Stack:
    document = read_template(DATA / "template.yaml")
    document["Resources"]["Recorder"]["Properties"]["Events"]["Arrived"] = event
    return Stack(document, {"Journal": "j"}, SITE)


def test_an_event_source_that_is_not_run_offline_is_refused() -> None:
    stack = _function_with({"Type": "Schedule", "Properties": {"Schedule": "rate(1 hour)"}})
    sentence = (
        "event Arrived of Recorder is of type Schedule, which is not run offline; run is: SQS"
    )
    with pytest.raises(TemplateError, match=sentence):
        drives(stack, DATA)


def test_a_property_of_an_event_source_that_is_not_run_offline_is_refused() -> None:
    arn = "arn:aws:sqs:us-east-1:123456789012:q"
    stack = _function_with({"Type": "SQS", "Properties": {"Queue": arn, "FilterCriteria": {}}})
    with pytest.raises(TemplateError, match="Arrived of Recorder has FilterCriteria, which is not"):
        drives(stack, DATA)


def test_an_event_source_that_is_switched_off_is_not_run() -> None:
    arn = "arn:aws:sqs:us-east-1:123456789012:q"
    stack = _function_with({"Type": "SQS", "Properties": {"Queue": arn, "Enabled": False}})
    assert [drive.logical_id for drive in drives(stack, DATA)] == ["PlainRecorder"]


def test_an_event_source_beside_its_function_is_refused() -> None:
    document = read_template(DATA / "template.yaml")
    document["Resources"]["Mapping"] = {
        "Type": "AWS::Lambda::EventSourceMapping",
        "Properties": {"FunctionName": {"Ref": "Recorder"}},
    }
    with pytest.raises(TemplateError, match="Mapping stands on its own"):
        drives(Stack(document, {"Journal": "j"}, SITE), DATA)


def test_code_that_is_not_there_is_told_in_a_sentence(tmp_path: Path) -> None:
    stack = Stack(read_template(DATA / "template.yaml"), {"Journal": "j"}, SITE)
    with pytest.raises(TemplateError, match=r"folder .*/recorder, which is not there"):
        drives(stack, tmp_path)


@pytest.mark.parametrize(
    ("folder", "queue"),
    [
        ("index", "IndexQueue"),
        ("transcode", "TranscodeQueue"),
        ("commit", "CommitQueue"),
        ("mpps", "ProceduresQueue"),
    ],
)
def test_the_nodes_own_template_runs_each_function_on_its_queue(folder: str, queue: str) -> None:
    stack = Stack(read_template(ROOT / "template.yaml"), {"LogLevel": "DEBUG"}, SITE)
    [drive] = [
        each
        for each in drives(stack, ROOT)
        if each.function.path[0] == str(ROOT / "functions" / folder)
    ]
    assert drive.function.handler == "app.handler"
    assert str(ROOT / "layers/core") in drive.function.path
    assert drive.function.environment["LENTICULAR_BUCKET"] == stack.output("BucketName")
    assert drive.function.environment["LENTICULAR_TABLE"] == stack.output("TableName")
    assert drive.function.environment["POWERTOOLS_LOG_LEVEL"] == "DEBUG"
    assert drive.source.queue_arn == stack.get_att(f"{queue}.Arn")  # type: ignore[attr-defined]
