"""The gateway's stack gives the gateway what it reads, and stops it as gently as it can stop."""

import json
from dataclasses import fields
from typing import Any

import pytest

from gateway import audit, metrics, supervisor, wire
from infra.local.template import read_template
from lenticular.settings import GatewaySettings
from tests.template.sam import (
    ROOT,
    Document,
    Template,
    deployed,
    names_used,
    parts,
    reference,
)

#: Settings that a task is not given, and why.
LEFT_ALONE = {
    "LENTICULAR_AUDIT_FILE": "the disk of a task ends with it; there is a log group for it",
    "LENTICULAR_BIND": "a task has a network of its own",
    "LENTICULAR_NODES_FILE": "nodes are in the table, where `lenticular nodes import` puts them",
}


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


def test_every_setting_of_the_gateway_is_given_to_the_task_or_left_alone_on_purpose(
    containers: dict[str, Document],
) -> None:
    known = {setting.metadata["variable"] for setting in fields(GatewaySettings)}
    assert known - environment(containers).keys() == LEFT_ALONE.keys()


def test_a_parameter_allows_what_the_gateway_takes_and_has_its_default(
    written: Template, containers: dict[str, Document]
) -> None:
    settings = {setting.metadata["variable"]: setting for setting in fields(GatewaySettings)}
    handed_down = written.properties("AWS::CloudFormation::Stack")["Gateway"]["Parameters"]
    parameters = written.document["Parameters"]
    checked = []
    for variable, value in environment(containers).items():
        name = reference(handed_down.get(reference(value)))
        if variable not in settings or name not in parameters:
            continue
        parameter, setting = parameters[name], settings[variable]
        limits = [parameter[limit] for limit in ("MinValue", "MaxValue") if limit in parameter]
        for allowed in parameter.get("AllowedValues", limits):
            setting.metadata["parse"](str(allowed))
        # An empty variable counts as not set.
        default = parameter["Default"]
        parsed = None if default == "" else setting.metadata["parse"](str(default))
        assert parsed == setting.default, name
        checked.append(variable)
    # As many as a clinic may want otherwise; the others are where the template puts things.
    assert len(checked) >= 20


def test_the_gateway_drains_before_it_is_killed_and_is_not_idle_longer_than_the_load_balancer(
    written: Template, gateway: Template, containers: dict[str, Document]
) -> None:
    drain = int(str(environment(containers)["LENTICULAR_DRAIN_SECONDS"]))
    # One after the other: workers end, and what nobody would write any more is written.
    end = supervisor._END_SECONDS + audit._FLUSH_SECONDS + metrics._FLUSH_SECONDS
    assert drain + end < containers["gateway"]["StopTimeout"] <= 120
    for group in gateway.properties("AWS::ElasticLoadBalancingV2::TargetGroup").values():
        delay = attributes(group, "TargetGroupAttributes")["deregistration_delay.timeout_seconds"]
        assert int(delay) > drain
    idle = written.document["Parameters"]["IdleSeconds"]["MaxValue"]
    keep_alive = {option: value for _, option, value in wire._KEEP_ALIVE}
    for listener in gateway.properties("AWS::ElasticLoadBalancingV2::Listener").values():
        assert listener["Protocol"] == "TCP"
        patience = attributes(listener, "ListenerAttributes")["tcp.idle_timeout.seconds"]
        assert int(patience) > idle
        assert int(patience) > keep_alive["TCP_KEEPIDLE"]


def test_the_load_balancer_reaches_the_ports_of_a_task_and_no_others(
    gateway: Template, containers: dict[str, Document]
) -> None:
    mapped = {each["ContainerPort"] for each in containers["gateway"]["PortMappings"]}
    out = gateway.properties("AWS::EC2::SecurityGroupEgress").values()
    into = gateway.properties("AWS::EC2::SecurityGroupIngress").values()
    spool = {2049}
    for rules, others in ((out, spool), (into, set[int]())):
        assert {rule["FromPort"] for rule in rules} == mapped | others
        assert all(rule["FromPort"] == rule["ToPort"] for rule in rules)


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


def test_no_security_group_lets_out_what_nobody_asked_for(
    gateway: Template, network: Template
) -> None:
    for template in (gateway, network):
        groups = template.properties("AWS::EC2::SecurityGroup")
        assert groups
        for name, group in groups.items():
            # Without a rule of its own a group gets one that allows everything.
            assert group["SecurityGroupEgress"], name
            for rule in group["SecurityGroupEgress"]:
                assert rule["IpProtocol"] != "-1", name


def test_an_update_leaves_the_number_of_tasks_to_scaling(gateway: Template) -> None:
    [service] = gateway.properties("AWS::ECS::Service").values()
    assert "DesiredCount" not in service
    [target] = gateway.properties("AWS::ApplicationAutoScaling::ScalableTarget").values()
    assert reference(target["MinCapacity"]) == "MinTasks"


def test_no_role_may_do_everything_and_none_has_a_wildcard_but_where_aws_wants_one(
    gateway: Template,
) -> None:
    for role in gateway.properties("AWS::IAM::Role").values():
        for policy in chosen(role.get("Policies", [])):
            for statement in policy["PolicyDocument"]["Statement"]:
                assert "*" not in json.dumps(statement["Action"])
                if statement["Resource"] == "*":
                    assert statement["Action"] == "ecr:GetAuthorizationToken"


@pytest.mark.parametrize(
    ("image", "repository"),
    [
        ("123456789012.dkr.ecr.eu-central-1.amazonaws.com/lenticular-gateway:1.0", None),
        ("123456789012.dkr.ecr.eu-central-1.amazonaws.com/lenticular-gateway@sha256:0a", None),
        ("123456789012.dkr.ecr.cn-north-1.amazonaws.com.cn/clinic/gateway:1.0", "clinic"),
        ("lenticular-gateway:1.0", ""),
    ],
)
def test_a_task_is_started_from_the_repository_of_its_image_and_no_other(
    gateway: Template, image: str, repository: str | None
) -> None:
    values = {
        name: str(each.get("AllowedValues", ["1"])[0])
        for name, each in gateway.document["Parameters"].items()
    }
    stack = deployed(gateway, **{**values, "Image": image, "KmsKeyArn": "", "TlsSecretArn": ""})
    roles = stack.of_type("AWS::IAM::Role", "Policies")
    [resources] = (
        statement["Resource"]
        for role in roles
        for policy in role.properties["Policies"]
        for statement in policy["PolicyDocument"]["Statement"]
        if statement["Sid"] == "PullImage"
    )
    name = "lenticular-gateway" if repository is None else repository
    assert [each.partition(":repository/")[2] for each in resources] == [name, f"{name}/*"]


def test_the_main_template_gives_the_nested_ones_exactly_their_parameters(
    written: Template, gateway: Template, network: Template
) -> None:
    stacks = written.properties("AWS::CloudFormation::Stack")
    dashboard = Template(read_template(ROOT / "infra/dashboard.yaml"))
    for name, nested in (("Gateway", gateway), ("Network", network), ("DashboardStack", dashboard)):
        assert stacks[name]["Parameters"].keys() == nested.document["Parameters"].keys()
        used = {
            str(part["Fn::GetAtt"][1]).removeprefix("Outputs.")
            for part in parts(written.document)
            if isinstance(part, dict) and "Fn::GetAtt" in part and part["Fn::GetAtt"][0] == name
        }
        assert used <= nested.document.get("Outputs", {}).keys()


def test_every_parameter_of_a_nested_template_is_used(gateway: Template, network: Template) -> None:
    dashboard = Template(read_template(ROOT / "infra/dashboard.yaml"))
    for nested in (gateway, network, dashboard):
        used = names_used([nested.document["Resources"], nested.document["Conditions"]])
        assert nested.document["Parameters"].keys() <= used


def test_endpoints_serve_the_archive_and_the_account_alone_and_there_is_one_for_each_service(
    network: Template,
) -> None:
    endpoints = network.properties("AWS::EC2::VPCEndpoint").values()
    services = {
        each["ServiceName"]["Fn::Sub"].removeprefix("com.amazonaws.${AWS::Region}."): each
        for each in endpoints
    }
    assert services.keys() == {
        *("dynamodb", "ecr.api", "ecr.dkr", "logs", "s3", "secretsmanager", "sqs"),
    }
    for service in ("s3", "dynamodb"):
        assert services[service]["VpcEndpointType"] == "Gateway"
        for statement in services[service]["PolicyDocument"]["Statement"]:
            assert statement["Effect"] == "Allow"
            assert statement["Resource"] != "*"
    for endpoint in endpoints:
        if endpoint["VpcEndpointType"] == "Interface":
            [statement] = endpoint["PolicyDocument"]["Statement"]
            own = {"aws:PrincipalAccount": {"Ref": "AWS::AccountId"}}
            assert statement["Condition"] == {"StringEquals": own}


def test_every_log_group_ends_and_has_the_key_that_is_asked_for(
    transformed: Template, gateway: Template, network: Template
) -> None:
    for template in (transformed, gateway, network):
        groups = template.properties("AWS::Logs::LogGroup")
        assert groups
        for group in groups.values():
            assert reference(group["RetentionInDays"]) in {"LogRetentionDays", "AuditRetentionDays"}
            assert group["KmsKeyId"]["Fn::If"][0] == "HasKey"
