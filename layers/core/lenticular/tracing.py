"""Calls of AWS in a trace: which service, what operation, when, and how it ended, by its code.

The patch of botocore that comes with X-Ray's SDK writes down what AWS says of a failure, and
DynamoDB quotes the value that it refuses; and the keys of objects. Whoever reads traces need not
know of any patient, so here there are no words, keys or values.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from botocore.client import BaseClient
from botocore.exceptions import ClientError

from .aws import error_code

if TYPE_CHECKING:
    from aws_lambda_powertools import Tracer

#: Through which all calls of all clients go.
_CALL: Final = "_make_api_call"


def trace_calls(tracer: "Tracer") -> None:
    """Have every call of AWS be a subsegment from now on; nothing where nobody traces."""
    if tracer.disabled:
        return
    recorder: Any = tracer.provider
    call: Callable[..., object] = getattr(BaseClient, _CALL)

    def traced(client: BaseClient, operation: str, parameters: object) -> object:
        made: object = recorder.record_subsegment(
            call,
            client,
            (client, operation, parameters),
            {},
            name=client.meta.service_model.endpoint_prefix,
            namespace="aws",
            meta_processor=_tell,
        )
        return made

    setattr(BaseClient, _CALL, traced)


def _tell(
    *,
    args: tuple[BaseClient, str, object],
    return_value: dict[str, Any] | None,
    exception: Exception | None,
    subsegment: Any,  # noqa: ANN401 - of the SDK, which has no types
    **_: object,
) -> None:
    """Write what there is to say of a call into its subsegment."""
    client, operation, _parameters = args
    answer = exception.response if isinstance(exception, ClientError) else return_value or {}
    facts = answer.get("ResponseMetadata", {})
    told = {
        "operation": operation,
        "region": client.meta.region_name,
        "request_id": facts.get("RequestId"),
    }
    subsegment.set_aws({name: value for name, value in told.items() if value is not None})
    # The SDK makes of it whose fault it was.
    subsegment.put_http_meta("status", facts.get("HTTPStatusCode"))
    if exception is None:
        return
    subsegment.put_annotation("error_code", error_code(exception))
    if "HTTPStatusCode" not in facts:
        subsegment.add_fault_flag()
