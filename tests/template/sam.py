"""Reading template.yaml, and what SAM makes of it."""

import copy
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3
from samtranslator.parser.parser import Parser
from samtranslator.translator.translator import Translator

from infra.local.template import Site, Stack, read_template

ROOT = Path(__file__).parents[2]

#: A template or a part of it, in CloudFormation's own types.
Document = dict[str, Any]


@dataclass(frozen=True)
class Template:
    """A template and what is in it."""

    document: Document

    def resources(self, kind: str) -> dict[str, Document]:
        """Return the resources of a type, by logical id."""
        resources = self.document["Resources"].items()
        return {name: each for name, each in resources if each["Type"] == kind}

    def properties(self, kind: str) -> dict[str, Document]:
        """Return the properties of the resources of a type, by logical id."""
        return {name: each.get("Properties", {}) for name, each in self.resources(kind).items()}

    def default(self, value: object) -> Any:
        """Return the default of the parameter that `value` refers to, any other value as it is."""
        parameter = self.document["Parameters"].get(reference(value) or "", {})
        return parameter.get("Default", value)


def reference(value: object) -> str | None:
    """Return the logical id that a Ref or GetAtt names, None for anything else."""
    match value:
        case {"Ref": str(name)} | {"Fn::GetAtt": [str(name), *_]}:
            return name
    return None


def parts(value: object) -> Iterator[object]:
    """Yield `value` and everything in it, at any depth."""
    yield value
    match value:
        case dict():
            for each in value.values():
                yield from parts(each)
        case list():
            for each in value:
                yield from parts(each)


def names_used(document: object) -> set[str]:
    """Return every logical id, parameter and pseudo parameter that a part of a template names."""
    names: set[str] = set()
    for part in parts(document):
        match part:
            case {"Ref": str(name)} | {"Fn::GetAtt": [str(name), *_]}:
                names.add(name)
            case {"Fn::Sub": str(text)} | {"Fn::Sub": [str(text), _]}:
                names |= {each.split(".")[0] for each in re.findall(r"\$\{([^!}]+)\}", text)}
    return names


def deployed(template: Template, **parameters: str) -> Stack:
    """Return the stack that a template makes of values of its parameters."""
    return Stack(template.document, parameters, Site("https://aws.invalid"))


def read() -> Template:
    """Read template.yaml as it is written."""
    return Template(read_template(ROOT / "template.yaml"))


def transform(template: Template) -> Template:
    """Return the CloudFormation that SAM makes of a template with its parameters' defaults."""
    document = copy.deepcopy(template.document)
    for resource in document["Resources"].values():
        # `sam package` writes the code's place in S3 here; the translator takes nothing else.
        for name in ("CodeUri", "ContentUri"):
            if name in resource.get("Properties", {}):
                resource["Properties"][name] = "s3://packaged/" + resource["Properties"][name]
    defaults = {
        name: parameter["Default"]
        for name, parameter in document["Parameters"].items()
        if "Default" in parameter
    }
    session = boto3.Session(region_name="eu-central-1")
    translator = Translator({}, Parser(), boto_session=session)
    return Template(translator.translate(document, parameter_values=defaults))
