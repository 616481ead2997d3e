"""template.yaml as the stack it describes: transformed by SAM's own translator, then resolved.

What CloudFormation does on deployment happens here in small: parameters get their values,
conditions are decided, intrinsic functions are evaluated, and names and ARNs are generated. Names
are the same at every start, so that a table that outlives the node is found again.

Values are resolved when they are asked for. What is not run offline (alarms, roles, ...) may refer
to whatever it likes; what is run and refers to something without a value offline is an error.
"""

import copy
import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import yaml
from boto3.session import Session
from samtranslator.model.exceptions import InvalidDocumentException
from samtranslator.parser.parser import Parser
from samtranslator.translator.translator import Translator

from lenticular.errors import OperatorError

from . import REGION

#: A value as JSON has it, of whatever type.
Json = Any

#: Functions and layers carry their folder through the translator as an S3 key, which is the only
#: form of code it takes; nothing is ever put there.
CODE_BUCKET: Final = "offline"


class TemplateError(OperatorError):
    """The template, or a parameter given for it, cannot be run offline."""


@dataclass(frozen=True, slots=True)
class Site:
    """Where the stack stands: what pseudo parameters and generated names are made of.

    `account` is the one moto gives to every credential.
    """

    aws: str
    region: str = REGION
    account: str = "123456789012"
    partition: str = "aws"
    stack: str = "lenticular"


@dataclass(frozen=True, slots=True)
class Resource:
    """A resource of the stack with its properties resolved."""

    logical_id: str
    type: str
    properties: dict[str, Any]


@dataclass(frozen=True, slots=True)
class _Identity:
    """How a type of resource is named, and what Ref and GetAtt give for it."""

    name_property: str
    ref: str
    attributes: Mapping[str, str]


_IDENTITIES: Final = {
    "AWS::S3::Bucket": _Identity(
        "BucketName",
        "{name}",
        {"Arn": "arn:{partition}:s3:::{name}", "DomainName": "{name}.s3.amazonaws.com"},
    ),
    "AWS::SQS::Queue": _Identity(
        "QueueName",
        "{aws}/{account}/{name}",
        {
            "Arn": "arn:{partition}:sqs:{region}:{account}:{name}",
            "QueueName": "{name}",
            "QueueUrl": "{aws}/{account}/{name}",
        },
    ),
    "AWS::DynamoDB::Table": _Identity(
        "TableName",
        "{name}",
        {"Arn": "arn:{partition}:dynamodb:{region}:{account}:table/{name}"},
    ),
    "AWS::Lambda::Function": _Identity(
        "FunctionName",
        "{name}",
        {"Arn": "arn:{partition}:lambda:{region}:{account}:function:{name}"},
    ),
    "AWS::Lambda::LayerVersion": _Identity(
        "LayerName", "arn:{partition}:lambda:{region}:{account}:layer:{name}:1", {}
    ),
    "AWS::IAM::Role": _Identity(
        "RoleName", "{name}", {"Arn": "arn:{partition}:iam::{account}:role/{name}"}
    ),
    "AWS::Logs::LogGroup": _Identity(
        "LogGroupName",
        "{name}",
        {"Arn": "arn:{partition}:logs:{region}:{account}:log-group:{name}:*"},
    ),
    "AWS::KMS::Key": _Identity(
        "KeyId", "{name}", {"Arn": "arn:{partition}:kms:{region}:{account}:key/{name}"}
    ),
    "AWS::SNS::Topic": _Identity("TopicName", "arn:{partition}:sns:{region}:{account}:{name}", {}),
}

_PSEUDO_PARAMETERS: Final = {
    "AWS::AccountId": "{account}",
    "AWS::Partition": "{partition}",
    "AWS::Region": "{region}",
    "AWS::StackId": "arn:{partition}:cloudformation:{region}:{account}:stack/{stack}/offline",
    "AWS::StackName": "{stack}",
    "AWS::URLSuffix": "amazonaws.com",
}

_CODE_PROPERTIES: Final = {
    "AWS::Serverless::Function": "CodeUri",
    "AWS::Serverless::LayerVersion": "ContentUri",
}


class _NoValue:
    """AWS::NoValue: the property or list entry that has it is left out."""


_NO_VALUE: Final = _NoValue()
_SUBSTITUTION: Final = re.compile(r"\$\{(!?)\s*([^}]*?)\s*\}")


def read_template(path: Path) -> dict[str, Any]:
    """Read a template with CloudFormation's short tags, or raise `TemplateError`."""
    try:
        document = yaml.load(path.read_text("utf-8"), _CloudFormationLoader)  # noqa: S506 - a SafeLoader
    except OSError as error:
        raise TemplateError(f"template {path} cannot be read: {error.strerror}") from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f" at line {mark.line + 1}" if mark else ""
        raise TemplateError(f"template {path} is not valid YAML{where}") from error
    if not isinstance(document, dict) or not isinstance(document.get("Resources"), dict):
        raise TemplateError(f"template {path} has no Resources")
    return document


class _CloudFormationLoader(yaml.SafeLoader):
    """Reads `!Ref x` as {Ref: x}, and a policy's `2012-10-17` as the text it is."""


_CloudFormationLoader.yaml_implicit_resolvers = {
    first: [(tag, regexp) for tag, regexp in resolvers if not tag.endswith(":timestamp")]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def _intrinsic(loader: yaml.SafeLoader, tag: str, node: yaml.Node) -> dict[str, Any]:
    value: Any
    if isinstance(node, yaml.ScalarNode):
        value = loader.construct_scalar(node)
    elif isinstance(node, yaml.SequenceNode):
        value = loader.construct_sequence(node, deep=True)
    elif isinstance(node, yaml.MappingNode):
        value = loader.construct_mapping(node, deep=True)
    if tag in ("Ref", "Condition"):
        return {tag: value}
    if tag == "GetAtt" and isinstance(value, str):
        value = value.split(".", 1)
    return {f"Fn::{tag}": value}


_CloudFormationLoader.add_multi_constructor("!", _intrinsic)


def parameter_values(document: Mapping[str, Any], given: Mapping[str, str]) -> dict[str, str]:
    """Return every parameter's value: the one given, or its default.

    Raises:
        TemplateError: a parameter is unknown, has no value or one the template does not allow.
    """
    declared: dict[str, dict[str, Any]] = document.get("Parameters", {})
    unknown = sorted(set(given) - set(declared))
    if unknown:
        known = ", ".join(sorted(declared)) or "none"
        raise TemplateError(f"the template has no parameter {unknown[0]}; it has: {known}")
    values = {}
    for name, declaration in declared.items():
        default = declaration.get("Default")
        if name not in given and default is None:
            raise TemplateError(f"parameter {name} has no default: give it with --set {name}=VALUE")
        values[name] = str(given.get(name, default))
        if problem := _violation(values[name], declaration):
            raise TemplateError(f"parameter {name} {problem}, and {values[name]!r} is not")
    return values


def _violation(value: str, declaration: Mapping[str, Any]) -> str | None:
    """Say what a parameter must be when `value` is not that."""
    low, high = declaration.get("MinValue", "-inf"), declaration.get("MaxValue", "inf")
    number = declaration.get("Type") == "Number"
    allowed = [str(choice) for choice in declaration.get("AllowedValues", [value])]
    pattern = declaration.get("AllowedPattern", ".*")
    if number and not _is_number(value):
        return "must be a number"
    if value not in allowed:
        return f"must be one of {', '.join(allowed)}"
    if number and not float(low) <= float(value) <= float(high):
        return f"must be from {low} to {high}"
    if not re.fullmatch(pattern, value, re.DOTALL):
        return str(declaration.get("ConstraintDescription", f"must match {pattern}"))
    return None


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


class Stack:
    """A template at a site: its resources, outputs and functions' events, resolved on demand."""

    def __init__(self, document: Mapping[str, Any], given: Mapping[str, str], site: Site) -> None:
        """Transform `document` with the parameter values in `given`, or raise `TemplateError`."""
        self.site = site
        self._parameters = parameter_values(document, given)
        self._types = document.get("Parameters", {})
        transformed = _transformed(document, self._parameters, site)
        self._resources: dict[str, dict[str, Any]] = transformed["Resources"]
        self._outputs: dict[str, dict[str, Any]] = transformed.get("Outputs", {})
        self._mappings: dict[str, Any] = transformed.get("Mappings", {})
        self._conditions: dict[str, Any] = transformed.get("Conditions", {})
        self._events = {
            logical_id: resource.get("Properties", {}).get("Events", {})
            for logical_id, resource in document["Resources"].items()
            if resource.get("Type") == "AWS::Serverless::Function"
        }
        self._makefile_layers = {
            _code_key(resource["Properties"].get("ContentUri"))
            for resource in document["Resources"].values()
            if resource.get("Metadata", {}).get("BuildMethod") == "makefile"
            and resource.get("Type") == "AWS::Serverless::LayerVersion"
        }

    def types(self) -> dict[str, str]:
        """Return the type of every resource that the conditions let exist, by logical id."""
        return {name: resource["Type"] for name, resource in self._resources.items()
                if self._exists(name)}  # fmt: skip

    def of_type(self, resource_type: str, *only: str) -> list[Resource]:
        """Return the existing resources of a type; with `only`, just these properties of them."""
        return [
            Resource(name, resource_type, self._properties(name, only))
            for name, found in self.types().items()
            if found == resource_type
        ]

    def events(self, function: str) -> dict[str, dict[str, Any]]:
        """Return the `Events` of a function as SAM has them, by their name in the template."""
        resolved: dict[str, dict[str, Any]] = self.resolve(self._events.get(function, {}))
        return resolved

    def name(self, logical_id: str) -> str:
        """Return the physical name of a resource: the one in the template, or a generated one."""
        resource = self._resource(logical_id)
        identity = self._identity(logical_id)
        if identity.name_property in resource.get("Properties", {}):
            return str(self.resolve(resource["Properties"][identity.name_property]))
        name = f"{self.site.stack}-{logical_id}"
        return name.lower() if resource["Type"] == "AWS::S3::Bucket" else name

    def output(self, name: str) -> str:
        """Return an output of the stack."""
        if name not in self._outputs:
            raise TemplateError(f"the template has no output {name}")
        return str(self.resolve(self._outputs[name]["Value"]))

    def is_built_by_makefile(self, layer_key: str) -> bool:
        """Tell whether a layer's content is only there after `sam build`."""
        return layer_key in self._makefile_layers

    def resolve(self, value: Json) -> Json:
        """Evaluate the intrinsic functions in a value of the template."""
        if isinstance(value, dict):
            if len(value) == 1:
                [(function, argument)] = value.items()
                if function in _INTRINSICS:
                    return _INTRINSICS[function](self, argument)
                if function.startswith("Fn::"):
                    raise TemplateError(f"the template uses {function}, which is not run offline")
            resolved = {name: self.resolve(item) for name, item in value.items()}
            return {name: item for name, item in resolved.items() if item is not _NO_VALUE}
        if isinstance(value, list):
            return [item for item in map(self.resolve, value) if item is not _NO_VALUE]
        return value

    def _resource(self, logical_id: str) -> dict[str, Any]:
        if logical_id not in self._resources or not self._exists(logical_id):
            raise TemplateError(f"the template refers to {logical_id}, which it does not have")
        return self._resources[logical_id]

    def _exists(self, logical_id: str) -> bool:
        condition = self._resources[logical_id].get("Condition")
        return condition is None or self.decide(condition)

    def _properties(self, logical_id: str, only: tuple[str, ...]) -> dict[str, Any]:
        properties = self._resources[logical_id].get("Properties", {})
        wanted = {name: properties[name] for name in only or properties if name in properties}
        resolved: dict[str, Any] = self.resolve(wanted)
        return resolved

    def _identity(self, logical_id: str) -> _Identity:
        kind = self._resource(logical_id)["Type"]
        if kind not in _IDENTITIES:
            raise TemplateError(
                f"the template refers to {logical_id}, but a {kind} has no name offline"
            )
        return _IDENTITIES[kind]

    def _format(self, pattern: str, logical_id: str = "") -> str:
        name = self.name(logical_id) if logical_id else ""
        return pattern.format(name=name, **asdict(self.site))

    def decide(self, condition: Json) -> bool:
        """Decide a condition, given by its name or as it stands."""
        if isinstance(condition, str):
            if condition not in self._conditions:
                raise TemplateError(f"the template has no condition {condition}")
            return self.decide(self._conditions[condition])
        if isinstance(condition, bool):
            return condition
        return bool(self.resolve(condition))

    def ref(self, name: str) -> Json:
        """Evaluate `Ref`."""
        if name == "AWS::NoValue":
            return _NO_VALUE
        if name in _PSEUDO_PARAMETERS:
            return self._format(_PSEUDO_PARAMETERS[name])
        if name in self._parameters:
            is_list = "List" in str(self._types[name].get("Type"))
            text = self._parameters[name]
            return [part.strip() for part in text.split(",")] if is_list else text
        return self._format(self._identity(name).ref, name)

    def get_att(self, path: list[str] | str) -> str:
        """Evaluate `Fn::GetAtt`."""
        logical_id, attribute = path.split(".", 1) if isinstance(path, str) else path
        attributes = self._identity(logical_id).attributes
        if attribute not in attributes:
            raise TemplateError(
                f"the template refers to {logical_id}.{attribute}, which has no value offline"
            )
        return self._format(attributes[attribute], logical_id)

    def sub(self, argument: str | list[Any]) -> str:
        """Evaluate `Fn::Sub`; `${!Literal}` stands for `${Literal}`."""
        text, own = (argument, {}) if isinstance(argument, str) else argument

        def value(match: re.Match[str]) -> str:
            literal, name = match.groups()
            if literal:
                return f"${{{name}}}"
            if name in own:
                return str(self.resolve(own[name]))
            return str(self.get_att(name) if "." in name else self.ref(name))

        return _SUBSTITUTION.sub(value, text)

    def find_in_map(self, argument: list[Any]) -> Json:
        """Evaluate `Fn::FindInMap`."""
        found: Any = self._mappings
        keys = [str(self.resolve(key)) for key in argument[:3]]
        for key in keys:
            if key not in found:
                raise TemplateError(f"the template's Mappings have no {' / '.join(keys)}")
            found = found[key]
        return self.resolve(found)

    def choose(self, argument: list[Any]) -> Json:
        """Evaluate `Fn::If`; the branch not taken is not evaluated."""
        condition, yes, no = argument
        return self.resolve(yes if self.decide(condition) else no)

    def split(self, argument: list[Any]) -> list[str]:
        """Evaluate `Fn::Split`."""
        delimiter, text = argument
        return str(self.resolve(text)).split(delimiter)

    def join(self, argument: list[Any]) -> str:
        """Evaluate `Fn::Join`."""
        delimiter, parts = argument
        return str(delimiter).join(str(part) for part in self.resolve(parts))

    def select(self, argument: list[Any]) -> Json:
        """Evaluate `Fn::Select`."""
        index, values = self.resolve(argument)
        if not 0 <= int(index) < len(values):
            raise TemplateError(f"the template selects entry {index} of {len(values)}")
        return values[int(index)]


_INTRINSICS: Final[Mapping[str, Callable[[Stack, Any], Any]]] = {
    "Ref": Stack.ref,
    "Condition": Stack.decide,
    "Fn::GetAtt": Stack.get_att,
    "Fn::Sub": Stack.sub,
    "Fn::Join": Stack.join,
    "Fn::Split": Stack.split,
    "Fn::Select": Stack.select,
    "Fn::FindInMap": Stack.find_in_map,
    "Fn::If": Stack.choose,
    "Fn::Equals": lambda stack, sides: len({str(stack.resolve(side)) for side in sides}) == 1,
    "Fn::Not": lambda stack, conditions: not stack.decide(conditions[0]),
    "Fn::And": lambda stack, conditions: all(map(stack.decide, conditions)),
    "Fn::Or": lambda stack, conditions: any(map(stack.decide, conditions)),
}


def _transformed(
    document: Mapping[str, Any], parameters: Mapping[str, str], site: Site
) -> dict[str, Any]:
    """Return the CloudFormation template that SAM makes of a SAM template."""
    sam = copy.deepcopy(dict(document))
    for resource in sam["Resources"].values():
        code = _CODE_PROPERTIES.get(resource.get("Type", ""))
        if code and isinstance(resource.get("Properties", {}).get(code), str):
            path = resource["Properties"][code]
            resource["Properties"][code] = f"s3://{CODE_BUCKET}/{_code_key(path)}"
    # Named managed policies end in roles, which are not run offline: any ARN will do.
    translator = Translator({}, Parser(), boto_session=Session(region_name=site.region))
    try:
        transformed: dict[str, Any] = translator.translate(sam, dict(parameters))
    except InvalidDocumentException as error:
        causes = "; ".join(str(cause.message) for cause in error.causes)
        raise TemplateError(f"SAM does not take the template: {causes}") from error
    finally:
        # To nowhere; it warns of metrics that were not published.
        translator.metrics.publish()
    return transformed


def _code_key(path: object) -> str:
    """Write a folder of the template as an S3 key, which must not be empty."""
    return f"./{str(path).removeprefix('./')}"
