"""The gateway's stack gives the gateway what it reads, and stops it as gently as it can stop."""

import json
from dataclasses import fields
from typing import Any

import pytest

from infra.local.template import read_template
from lenticular.settings import GatewaySettings
from tests.template.sam import ROOT, Document, Template, parts


@pytest.fixture(scope="module")
def gateway() -> Template:
    return Template(read_template(ROOT / "infra/gateway.yaml"))


@pytest.fixture(scope="module")
def network() -> Template:
    return Template(read_template(ROOT / "infra/network.yaml"))


@pytest.fixture(scope="module")
def containers(gateway: Template) -> dict[str, Document]:
    """Return the containers of the task by name, with every condition true."""
    task = gateway.properties("AWS::ECS::TaskDefinition")["Task"]
    return {each["Name"]: each for each in chosen(task["ContainerDefinitions"])}


def chosen(value: Any) -> Any:
    """Take the first branch of every condition."""
    match value:
        case {"Fn::If": ["HasMutualTls", "off", otherwise]}:
            return chosen(otherwise)  # which closes what the other branches open
        case {"Fn::If": [_, then, _]}:
            return chosen(then)
        case dict():
            return {name: chosen(each) for name, each in value.items()}
        case list():
            return [chosen(each) for each in value]
    return value


def environment(containers: dict[str, Document]) -> dict[str, object]:
    return {each["Name"]: each["Value"] for each in containers["gateway"]["Environment"]}


def attributes(resource: Document, name: str) -> dict[str, str]:
    return {each["Key"]: each["Value"] for each in resource[name]}


def test_every_variable_of_the_task_is_a_setting_of_the_gateway(
    containers: dict[str, Document],
) -> None:
    known = {setting.metadata["variable"] for setting in fields(GatewaySettings)}
    assert environment(containers).keys() - known == {"AWS_DEFAULT_REGION"}


def test_the_gateway_drains_before_it_is_killed_and_is_not_idle_longer_than_the_load_balancer(
    gateway: Template, containers: dict[str, Document]
) -> None:
    drain = int(str(environment(containers)["LENTICULAR_DRAIN_SECONDS"]))
    assert drain < containers["gateway"]["StopTimeout"] <= 120
    defaults = {setting.name: setting.default for setting in fields(GatewaySettings)}
    idle = int(str(defaults["idle_seconds"]))
    for listener in gateway.properties("AWS::ElasticLoadBalancingV2::Listener").values():
        assert listener["Protocol"] == "TCP"
        patience = attributes(listener, "ListenerAttributes")["tcp.idle_timeout.seconds"]
        assert int(patience) > idle


def test_peers_keep_their_address_and_a_task_is_asked_whether_it_lives(gateway: Template) -> None:
    groups = gateway.properties("AWS::ElasticLoadBalancingV2::TargetGroup")
    assert len(groups) == 2
    for group in groups.values():
        assert attributes(group, "TargetGroupAttributes")["preserve_client_ip.enabled"] == "true"
        assert (group["HealthCheckProtocol"], group["HealthCheckPath"]) == ("HTTP", "/alive")


def test_ports_are_the_same_in_image_task_and_target_groups(
    gateway: Template, containers: dict[str, Document]
) -> None:
    wanted = environment(containers)
    ports = {
        wanted["LENTICULAR_PORT"],
        wanted["LENTICULAR_TLS_PORT"],
        wanted["LENTICULAR_HEALTH_PORT"],
    }
    mapped = {str(each["ContainerPort"]) for each in containers["gateway"]["PortMappings"]}
    groups = gateway.properties("AWS::ElasticLoadBalancingV2::TargetGroup").values()
    checked = {str(group["HealthCheckPort"]) for group in groups}
    assert mapped == ports == checked | {str(group["Port"]) for group in groups}
    [exposed] = (
        line.split()[1:]
        for line in (ROOT / "gateway/Dockerfile").read_text("utf-8").splitlines()
        if line.startswith("EXPOSE")
    )
    assert set(exposed) == ports


def test_containers_have_no_root_nothing_to_write_on_and_no_secret_in_plain_sight(
    containers: dict[str, Document],
) -> None:
    for container in containers.values():
        assert container["User"].split(":")[0] not in {"0", "root"}
        assert container["ReadonlyRootFilesystem"] is True
        for variable in container.get("Environment", []):
            # Credentials come from the task's role, keys by ECS from Secrets Manager.
            assert "SECRET" not in variable["Name"]
            assert "KEY" not in variable["Name"] or str(variable["Value"]).startswith("/tls/")


def test_nothing_of_the_node_is_on_the_internet(gateway: Template, network: Template) -> None:
    [balancer] = gateway.properties("AWS::ElasticLoadBalancingV2::LoadBalancer").values()
    assert balancer["Scheme"] == "internal"
    assert balancer["SecurityGroups"]
    service = gateway.properties("AWS::ECS::Service")["Service"]
    assert service["NetworkConfiguration"]["AwsvpcConfiguration"]["AssignPublicIp"] == "DISABLED"
    assert not network.resources("AWS::EC2::InternetGateway")
    assert not network.resources("AWS::EC2::NatGateway")
    for group in gateway.properties("AWS::EC2::SecurityGroup").values():
        for rule in chosen(group.get("SecurityGroupIngress", [])):
            assert rule.get("CidrIp") != "0.0.0.0/0"


def test_no_role_may_do_everything_and_none_has_a_wildcard_but_where_aws_wants_one(
    gateway: Template,
) -> None:
    for role in gateway.properties("AWS::IAM::Role").values():
        for policy in chosen(role.get("Policies", [])):
            for statement in policy["PolicyDocument"]["Statement"]:
                assert "*" not in json.dumps(statement["Action"])
                if statement["Resource"] == "*":
                    assert statement["Action"] == "ecr:GetAuthorizationToken"


def test_the_main_template_gives_the_nested_ones_exactly_their_parameters(
    written: Template, gateway: Template, network: Template
) -> None:
    stacks = written.properties("AWS::CloudFormation::Stack")
    for name, nested in (("Gateway", gateway), ("Network", network)):
        assert stacks[name]["Parameters"].keys() == nested.document["Parameters"].keys()
        used = {
            str(part["Fn::GetAtt"][1]).removeprefix("Outputs.")
            for part in parts(written.document)
            if isinstance(part, dict) and "Fn::GetAtt" in part and part["Fn::GetAtt"][0] == name
        }
        assert used <= nested.document["Outputs"].keys()


def test_alarms_say_what_to_do_and_reach_someone(gateway: Template) -> None:
    alarms = gateway.properties("AWS::CloudWatch::Alarm")
    assert alarms
    for alarm in alarms.values():
        assert len(alarm["AlarmDescription"]) > 60
        assert alarm["AlarmActions"]
        assert alarm["OKActions"]
