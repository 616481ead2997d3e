"""The template holds together: what it names exists, and a person can deploy it by its defaults."""

import re

from tests.template.sam import Template, names_used

PSEUDO_PARAMETERS = {
    "AWS::AccountId",
    "AWS::NoValue",
    "AWS::Partition",
    "AWS::Region",
    "AWS::StackName",
    "AWS::URLSuffix",
}


def test_every_reference_leads_to_a_resource_or_a_parameter(transformed: Template) -> None:
    known = {*transformed.document["Resources"], *transformed.document["Parameters"]}
    assert names_used(transformed.document) - known <= PSEUDO_PARAMETERS


def test_every_dependency_and_condition_exists(transformed: Template) -> None:
    resources = transformed.document["Resources"]
    for resource in resources.values():
        depends = resource.get("DependsOn", [])
        assert {depends} if isinstance(depends, str) else set(depends) <= resources.keys()
        assert resource.get("Condition") in {None, *transformed.document["Conditions"]}


def test_every_parameter_is_used_described_grouped_and_has_a_default(written: Template) -> None:
    parameters = written.document["Parameters"]
    interface = written.document["Metadata"]["AWS::CloudFormation::Interface"]
    grouped = [name for group in interface["ParameterGroups"] for name in group["Parameters"]]
    assert sorted(grouped) == sorted(parameters)
    assert interface["ParameterLabels"].keys() == parameters.keys()
    assert parameters.keys() <= names_used(
        [written.document["Resources"], written.document["Conditions"]]
    )
    for parameter in parameters.values():
        assert "Default" in parameter
        assert parameter["Description"]


def test_what_every_clinic_decides_is_asked_first(written: Template) -> None:
    [first, *_] = written.document["Metadata"]["AWS::CloudFormation::Interface"]["ParameterGroups"]
    asked = list(written.document["Parameters"])
    assert asked[: len(first["Parameters"])] == first["Parameters"]


def test_the_template_has_room_for_more_parameters(written: Template) -> None:
    # CloudFormation takes 200.
    assert len(written.document["Parameters"]) < 150


def test_text_parameters_take_only_what_their_pattern_or_list_allows(written: Template) -> None:
    for name, parameter in written.document["Parameters"].items():
        if parameter["Type"] != "String":
            continue
        allowed = parameter.get("AllowedValues")
        if allowed:
            assert parameter["Default"] in allowed, name
        else:
            assert re.fullmatch(parameter["AllowedPattern"], parameter["Default"]), name


#: MiB that Fargate has for units of CPU: ECS Developer Guide, "Task CPU and memory".
FARGATE = {
    "256": {"512", "1024", "2048"},
    "512": {str(1024 * gib) for gib in range(1, 5)},
    "1024": {str(1024 * gib) for gib in range(2, 9)},
    "2048": {str(1024 * gib) for gib in range(4, 17)},
    "4096": {str(1024 * gib) for gib in range(8, 31)},
}


def test_memory_that_fargate_does_not_have_is_refused_before_anything_is_made(
    written: Template,
) -> None:
    parameters = written.document["Parameters"]
    assert {str(each) for each in parameters["GatewayCpu"]["AllowedValues"]} == FARGATE.keys()
    allowed = {}
    for rule in written.document["Rules"].values():
        match rule["RuleCondition"], rule["Assertions"]:
            case {"Fn::Equals": [{"Ref": "GatewayCpu"}, cpu]}, [{"Assert": assertion}]:
                choices, memory = assertion["Fn::Contains"]
                assert memory == {"Ref": "GatewayMemory"}
                allowed[cpu] = set(choices)
    assert allowed == FARGATE
    assert (
        str(parameters["GatewayMemory"]["Default"])
        in FARGATE[str(parameters["GatewayCpu"]["Default"])]
    )


def test_numbers_that_cloudformation_would_write_with_an_exponent_are_text(
    written: Template,
) -> None:
    # As 1.6777216E7, which no setting takes.
    for name, parameter in written.document["Parameters"].items():
        default = parameter["Default"]
        assert not isinstance(default, int) or default < 10**7, name


def test_the_longest_allowed_prefix_still_makes_a_bucket_name(written: Template) -> None:
    pattern = written.document["Parameters"]["BucketPrefix"]["AllowedPattern"]
    longest = next(n for n in range(64, 0, -1) if re.fullmatch(pattern, "a" * n))
    assert len(f"{'a' * longest}-123456789012-ap-southeast-2") <= 63


def test_outputs_tell_a_gateway_its_bucket_table_and_policy(written: Template) -> None:
    outputs = written.document["Outputs"]
    assert outputs["BucketName"]["Value"] == {"Ref": "ArchiveBucket"}
    assert outputs["TableName"]["Value"] == {"Ref": "Table"}
    assert outputs["GatewayPolicyArn"]["Value"] == {"Ref": "GatewayPolicy"}
    assert all(each["Description"] for each in outputs.values())
