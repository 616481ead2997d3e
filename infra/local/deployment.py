"""A template, deployed offline: its resources are there, its functions are known."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from .cloud import clients, create
from .functions import Drive, drives
from .template import Site, Stack, read_template

#: Outputs of the template that are settings of a gateway.
_GATEWAY_OUTPUTS: Final = {"LENTICULAR_BUCKET": "BucketName", "LENTICULAR_TABLE": "TableName"}


@dataclass(frozen=True, slots=True)
class Deployment:
    """What is to be run, and the settings by which the gateway finds what it works with."""

    drives: list[Drive]
    settings: dict[str, str]


def deploy(template: Path, parameters: Mapping[str, str], aws: Mapping[str, str]) -> Deployment:
    """Create a template's resources at the `AWS_*` endpoints given.

    Raises:
        TemplateError: the template or a parameter is wrong, or asks for what is not run offline.
        CloudError: a resource could not be created.
    """
    stack = Stack(read_template(template), parameters, Site(aws["AWS_ENDPOINT_URL"]))
    deployment = Deployment(
        drives(stack, template.absolute().parent),
        {variable: stack.output(output) for variable, output in _GATEWAY_OUTPUTS.items()},
    )
    create(stack, clients(aws))
    return deployment
