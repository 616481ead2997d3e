"""What of the built templates ministack cannot have, and why; everything else is deployed as it is.

The lists are exact in both directions: a type of resource that ministack lacks and is not listed
fails the test of them, and so does one that is listed and ministack has by now.
"""

import json
import subprocess
from collections.abc import Container, Iterator
from pathlib import Path
from typing import Any, Final

import yaml

from infra.local.template import read_template
from tests.template.sam import parts

#: Types of resources that are left out.
LACKING: Final = {
    "AWS::ApplicationAutoScaling::ScalableTarget": "no tasks run there whose number could change",
    "AWS::ApplicationAutoScaling::ScalingPolicy": "no tasks run there whose number could change",
    "AWS::EC2::CustomerGateway": "no VPN is had offline",
    "AWS::EC2::FlowLog": "no packet is seen there",
    "AWS::EC2::SecurityGroupEgress": "no packet is filtered there",
    "AWS::EC2::SecurityGroupIngress": "no packet is filtered there",
    "AWS::EC2::VPNConnection": "no VPN is had offline",
    "AWS::EC2::VPNConnectionRoute": "no VPN is had offline",
    "AWS::EC2::VPNGateway": "no VPN is had offline",
    "AWS::EC2::VPNGatewayRoutePropagation": "no VPN is had offline",
}
#: Types that go under another one's name: a policy of one role is a policy of its list of roles.
WRITTEN_OTHERWISE: Final = {"AWS::IAM::RolePolicy": "AWS::IAM::Policy"}
#: Single resources that are left out, with the references to them.
OF_ANOTHER_PYTHON: Final = {
    "CodecsLayer": "machine code for the runtime's Python: functions run under ministack's own "
    "there, which has the codecs beside it"
}

_TYPES_IT_HAS: Final = """
import json
from ministack.services.cloudformation.provisioners import _RESOURCE_HANDLERS
print(json.dumps(sorted(_RESOURCE_HANDLERS)))
"""


def types_it_has(python: Path) -> set[str]:
    """Ask ministack, in its own Python, which types of resources it can make."""
    asked = subprocess.run(
        [python, "-c", _TYPES_IT_HAS], capture_output=True, text=True, check=True
    )
    return set(json.loads(asked.stdout))


def fit(build: Path) -> Path:
    """Rewrite the templates that `sam build` wrote into a folder, and return that."""
    for path in build.rglob("template.yaml"):
        document = read_template(path)
        document["Resources"] = dict(_fitting(document["Resources"]))
        for part in parts(document["Resources"]):
            _forget(part, OF_ANOTHER_PYTHON)
        path.write_text(yaml.safe_dump(document, sort_keys=False), "utf-8")
    return build


def _fitting(resources: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    for name, resource in resources.items():
        if resource["Type"] in LACKING or name in OF_ANOTHER_PYTHON:
            continue
        if resource["Type"] in WRITTEN_OTHERWISE:
            resource["Type"] = WRITTEN_OTHERWISE[resource["Type"]]
            resource["Properties"]["Roles"] = [resource["Properties"].pop("RoleName")]
        if "Metrics" in resource.get("Properties", {}):
            _forget_expression(resource["Properties"])
        yield name, resource


def _forget_expression(alarm: dict[str, Any]) -> None:
    """Have an alarm look at the first of its metrics: expressions are not reckoned there."""
    watched = next(each["MetricStat"] for each in alarm.pop("Metrics") if "MetricStat" in each)
    alarm |= {"Statistic": watched["Stat"], "Period": watched["Period"], **watched["Metric"]}


def _forget(part: object, names: Container[str]) -> None:
    """Take references to resources out of a list."""
    if isinstance(part, list):
        part[:] = [
            each for each in part if not (isinstance(each, dict) and each.get("Ref") in names)
        ]
