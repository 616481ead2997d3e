"""ministack as an AWS account that enforces its policies, on a listening socket handed over.

    .venv-ministack/bin/python tests/deployed/ministack_server.py FILE_DESCRIPTOR DECISIONS

It runs in an environment of its own, where ministack is and nothing of ours. Its settings are
environment variables, see `account`. TLS is always on, so that policies which deny plain HTTP are
in force. Every decision on a call that was not made by the account's root is written to the file
DECISIONS, a JSON object a line:

    principal   ARN of the assumed role
    action      IAM's name of what was asked for, such as s3:PutObject
    resource    ARN
    sid         the statement that decided, empty when none did
    allowed     whether the call was let through

Mended here of ministack 1.5.33, whose policies are told another thing than AWS tells them:

- a DynamoDB request has no `dynamodb:LeadingKeys`;
- a service that assumes a role has no `aws:SourceAccount`;
- a batch of messages asks for a permission of its own;
- a log group's ARN has no ":*" behind it.

And of its CloudFormation:

- with a nested stack goes what its DeletionPolicy keeps;
- a number that a parameter gives is text, which Lambda then counts with.
"""

import asyncio
import contextvars
import json
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, TextIO

from hypercorn.asyncio import serve
from hypercorn.config import Config
from ministack import app
from ministack.core import iam_actions, iam_evaluator, tls
from ministack.services import cloudformation
from ministack.services.cloudformation import provisioners

#: Of the table of the template.
PARTITION_KEY = "pk"
#: Service Authorization Reference, "Actions defined by Amazon SQS": batches have none of their own.
PERMISSION_FOR: dict[str | None, str] = {
    "sqs:ChangeMessageVisibilityBatch": "sqs:ChangeMessageVisibility",
    "sqs:DeleteMessageBatch": "sqs:DeleteMessage",
    "sqs:SendMessageBatch": "sqs:SendMessage",
}
#: Colons in arn:aws:logs:REGION:ACCOUNT:log-group:NAME.
_GROUP = 6
#: Properties that ministack counts with, and the resources they are in.
NUMBERS = ("MaximumConcurrency",)
WITH_NUMBERS = ("AWS::Lambda::EventSourceMapping",)


def tell_policies_what_aws_tells_them() -> None:
    """Give conditions the keys that they are written for."""
    context_of, value_of = (
        iam_actions.dynamodb_service_context,
        iam_evaluator._resolve_condition_key,
    )

    def dynamodb_service_context(body: bytes) -> dict[str, Any]:
        context: dict[str, Any] = context_of(body)
        request = json.loads(body or b"{}")
        item = request.get("Item") or request.get("Key") or {}
        if PARTITION_KEY in item:
            context["dynamodb:LeadingKeys"] = list(item[PARTITION_KEY].values())
        return context

    def resolve_condition_key(key: str, context: Any) -> Any:
        if key.lower() == "aws:sourceaccount" and context.action == "sts:AssumeRole":
            return context.principal_account
        return value_of(key, context)

    iam_actions.dynamodb_service_context = dynamodb_service_context
    iam_evaluator._resolve_condition_key = resolve_condition_key


def ask_for_what_aws_asks_for() -> None:
    """Check the permission that AWS wants for an operation, on the resource as AWS names it."""
    action_of = iam_actions.extract_iam_action

    def extract_iam_action(*arguments: Any) -> str | None:
        action: str | None = action_of(*arguments)
        return PERMISSION_FOR.get(action, action)

    resource_of = iam_actions.extract_resource_arn

    def extract_resource_arn(service: str, *arguments: Any) -> str:
        resource: str = resource_of(service, *arguments)
        return f"{resource}:*" if service == "logs" and resource.count(":") == _GROUP else resource

    iam_actions.extract_iam_action = extract_iam_action
    iam_actions.extract_resource_arn = extract_resource_arn


def keep_what_nested_stacks_keep() -> None:
    """Delete of a nested stack what its DeletionPolicy lets go."""
    handlers = provisioners._RESOURCE_HANDLERS["AWS::CloudFormation::Stack"]
    delete = handlers["delete"]

    def delete_stack(physical_id: str, properties: dict[str, Any]) -> None:
        stack = cloudformation._stacks[provisioners._nested_stack_lookup_name(physical_id)]
        for name, resource in stack["_template"]["Resources"].items():
            if resource.get("DeletionPolicy", "Delete").startswith("Retain"):
                stack["_resources"].pop(name, None)
        delete(physical_id, properties)

    handlers["delete"] = delete_stack


def make_numbers_of_parameters() -> None:
    """Turn a parameter's text into a number where the template's own number would be one."""

    def numbers(value: Any) -> Any:
        if isinstance(value, list):
            return [numbers(each) for each in value]
        if not isinstance(value, dict):
            return value
        return {
            name: int(each) if name in NUMBERS else numbers(each) for name, each in value.items()
        }

    def with_numbers(make: Callable[..., Any]) -> Callable[..., Any]:
        return lambda *arguments: make(*map(numbers, arguments))

    for resource_type in WITH_NUMBERS:
        handlers = provisioners._RESOURCE_HANDLERS[resource_type]
        for operation in ("create", "update"):
            handlers[operation] = with_numbers(handlers[operation])


def write_decisions(file: TextIO) -> None:
    """Write down what policies decide of every call."""
    enforce, evaluate = iam_evaluator.enforce, iam_evaluator.evaluate
    # The first that a call's evaluation finds is what its principal's own policies say.
    of_the_principal: contextvars.ContextVar[Any] = contextvars.ContextVar("of_the_principal")
    writing = threading.Lock()

    def evaluated(context: Any, *policies: Any) -> Any:
        result = evaluate(context, *policies)
        if of_the_principal.get(result) is None:
            of_the_principal.set(result)
        return result

    def enforced(
        access_key_id: str, iam_action: str, service: str, region: str, **more: Any
    ) -> Any:
        before = of_the_principal.set(None)
        try:
            denied = enforce(access_key_id, iam_action, service, region, **more)
            result = of_the_principal.get()
        finally:
            of_the_principal.reset(before)
        if result is not None:
            line = {
                "principal": result.principal_arn,
                "action": iam_action,
                "resource": more.get("resource_arn", "*"),
                "sid": result.matched_sid,
                "allowed": denied is None,
            }
            with writing:
                print(json.dumps(line), file=file, flush=True)
        return denied

    iam_evaluator.evaluate = evaluated
    iam_evaluator.enforce = enforced


def main() -> None:
    """Serve until the process is ended."""
    descriptor, decisions = sys.argv[1:]
    tell_policies_what_aws_tells_them()
    ask_for_what_aws_asks_for()
    keep_what_nested_stacks_keep()
    make_numbers_of_parameters()
    config = Config()
    config.bind = [f"fd://{descriptor}"]
    config.certfile, config.keyfile = tls.resolve_tls_material()
    config.keep_alive_timeout = 75
    with Path(decisions).open("w", encoding="utf-8") as file:
        write_decisions(file)
        asyncio.run(serve(app.app, config))


if __name__ == "__main__":
    main()
