"""The stack's Lambda functions: where their code is, their environment, what drives them."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from .event_sources import EventSource, EventSourceError, event_source
from .function_worker import LambdaFunction
from .template import CODE_BUCKET, Resource, Stack, TemplateError

_log = logging.getLogger(__name__)

# AWS's own defaults.
_DEFAULT_TIMEOUT_SECONDS: Final = 3
_DEFAULT_MEMORY_MB: Final = 128


@dataclass(frozen=True, slots=True)
class Drive:
    """A function and one of the event sources that bring it events."""

    logical_id: str
    event: str
    function: LambdaFunction
    source: EventSource


def drives(stack: Stack, root: Path) -> list[Drive]:
    """Return every function of the stack with each of its event sources.

    Raises:
        TemplateError: code is missing, or an event source is of a kind not run offline.
    """
    wanted = ("Code", "Handler", "Layers", "Timeout", "MemorySize", "Environment")
    found = []
    mappings = {
        logical_id
        for logical_id, resource_type in stack.types().items()
        if resource_type == "AWS::Lambda::EventSourceMapping"
    }
    for resource in stack.of_type("AWS::Lambda::Function", *wanted):
        function = _function(resource, stack, root)
        for name, event in stack.events(resource.logical_id).items():
            try:
                source = event_source(event, stack.site)
            except EventSourceError as error:
                raise TemplateError(f"event {name} of {resource.logical_id} {error}") from error
            if source is not None:
                found.append(Drive(resource.logical_id, name, function, source))
            # SAM's own name for the mapping that it makes of an event.
            mappings.discard(f"{resource.logical_id}{name}")
    if mappings:
        raise TemplateError(
            f"{min(mappings)} stands on its own: write it under its function's Events"
        )
    return found


def _function(resource: Resource, stack: Stack, root: Path) -> LambdaFunction:
    properties = resource.properties
    code = _folder(properties.get("Code", {}), root)
    if code is None:
        raise TemplateError(f"{resource.logical_id} has no folder as its CodeUri")
    variables = properties.get("Environment", {}).get("Variables", {})
    return LambdaFunction(
        name=stack.name(resource.logical_id),
        arn=stack.get_att([resource.logical_id, "Arn"]),
        handler=str(properties["Handler"]),
        path=[code, *_layer_folders(properties.get("Layers", []), stack, root)],
        timeout_seconds=float(properties.get("Timeout", _DEFAULT_TIMEOUT_SECONDS)),
        memory_mb=int(properties.get("MemorySize", _DEFAULT_MEMORY_MB)),
        environment={name: _variable(value) for name, value in variables.items()},
    )


def _variable(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _layer_folders(arns: list[str], stack: Stack, root: Path) -> list[str]:
    """Return the folders of our own layers; other people's wheels are installed here already."""
    layers = {
        stack.ref(layer.logical_id): layer.properties.get("Content", {})
        for layer in stack.of_type("AWS::Lambda::LayerVersion", "Content")
    }
    folders = []
    for arn in arns:
        content = layers.get(arn)
        if content is None:
            _log.debug("layer %s is not offline", arn)
        elif not stack.is_built_by_makefile(content.get("S3Key", "")):
            folder = _folder(content, root)
            if folder is None:
                raise TemplateError(f"layer {arn} has no folder as its ContentUri")
            folders.append(folder)
    return folders


def _folder(code: Mapping[str, Any], root: Path) -> str | None:
    if code.get("S3Bucket") != CODE_BUCKET:
        return None
    folder = root / str(code["S3Key"])
    if not folder.is_dir():
        raise TemplateError(f"the template names the folder {folder}, which is not there")
    return str(folder.resolve())
