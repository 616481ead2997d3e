"""What a node costs a month, reckoned from a clinic's numbers.

What an instance asks of AWS was measured (measured.toml); what AWS charges for it is one list of
prices of one region (prices.toml), each with its source and day; what runs all the time is the
template's. What is assumed beside that stands in `Clinic`, and nowhere else.
"""

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any, Final

from lenticular.errors import OperatorError

_HOURS: Final = 730.0
_DAYS: Final = 30.4
_MONTHS: Final = 12
_GIB: Final = 1 << 30
_MB: Final = 1_000_000
#: S3 moves nothing shorter than this to a colder class.
_LEAST_MOVED_BYTES: Final = 128 << 10
#: The soonest that the template moves anything to Glacier Instant Retrieval.
_EARLY_DAYS: Final = 120
#: Lambda looks into each queue with five pollers, each of which waits 20 s, whatever is in it.
_POLLS_PER_QUEUE: Final = 5 * 3600 * _HOURS / 20
_QUEUES: Final = 4
#: A VPN has two tunnels, each with a public address of its own.
_TUNNELS: Final = 2
#: Messages of SQS that an event costs: sent by S3, received and deleted by Lambda, in batches.
_REQUESTS_PER_EVENT: Final = 1.2
_S3_WRITES: Final = frozenset({"PutObject", "PutObjectTagging", "ListObjectsV2"})
_KEYS_PER_LISTING: Final = 1000
#: Eventually consistent, as `verify` reads.
_BYTES_PER_READ_UNIT: Final = 8 << 10
_S3_DELETES: Final = frozenset({"DeleteObject"})

Prices = Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Clinic:
    """What a clinic sends, and how its node is deployed; parameters of the template by default.

    Attributes:
        retrieved: how often an instance is got back, on average, in the month in which it came
        retrieved_later: how often a year, once it is in a colder class
        verify_per_year: how often a year every byte is read by `verify`, within the region
        vpn: whether the node has a VPN of its own
        data_out: whether what is got back goes to the clinic by the internet, as in any VPN; by
            Direct Connect it has other prices, which are not in the list
        form_ratio: bytes of a form by those of its original
        index_seconds: of the index function, a batch of ten
        transcode_seconds: of the transcode function, an instance
        item_bytes: of an instance in the table, its index entries included
        log_bytes: an instance, in all logs, audit trail and metrics included
        alarms: metrics that alarms look at, those that scale the tasks included
        metrics: of the gateway and the functions, by name and dimensions, with two kinds of failure
        traced: of the calls of functions, what X-Ray records: the first of a second and a twentieth
            of the others
        free_allowances: whether nothing else in the account uses up what AWS gives for nothing
    """

    studies_per_day: float
    instances: float
    mb: float
    retrieved: float = 0.5
    retrieved_later: float = 0.1
    verify_per_year: float = 0.0
    tasks: int = 1
    vcpus: float = 0.5
    memory_gib: float = 1.0
    endpoints: int = 4
    endpoint_zones: int = 1
    vpn: bool = True
    data_out: bool = True
    transcode: bool = True
    retire_originals: bool = False
    retired_days: int = 30
    infrequent_days: int = 0
    glacier_days: int = 120
    kms_key: bool = False
    alarms: int = 39
    metrics: int = 20
    traced: float = 0.1
    dashboard: bool = True
    free_allowances: bool = False
    form_ratio: float = 0.45
    index_seconds: float = 1.0
    index_gib: float = 0.5
    transcode_seconds: float = 0.5
    transcode_gib: float = 1769 / 1024
    item_bytes: int = 2_000
    log_bytes: int = 1_500

    @property
    def forms_go_at_once(self) -> bool:
        """Whether forms are put into the coldest class, for originals stay and are what is read."""
        return self.transcode and not self.retire_originals and self.glacier_days > 0

    @property
    def instances_per_month(self) -> float:
        """How many instances come in a month."""
        return self.studies_per_day * self.instances * _DAYS

    @property
    def gib_per_month(self) -> float:
        """How much comes in a month."""
        return self.studies_per_day * self.mb * _MB * _DAYS / _GIB

    @property
    def gib_out_per_month(self) -> float:
        """How much goes out to the clinic in a month, as received and not compressed."""
        return self.gib_per_month * self.retrieved


@dataclass(slots=True)
class _Stored:
    """GiB in each class of S3, and objects that come into the colder two, in a month.

    And what is read from those, in GiB and in objects; and how many objects each class has.
    """

    standard: float = 0.0
    infrequent: float = 0.0
    glacier: float = 0.0
    to_infrequent: float = 0.0
    to_glacier: float = 0.0
    put_to_glacier: float = 0.0
    infrequent_read_gib: float = 0.0
    infrequent_reads: float = 0.0
    glacier_read_gib: float = 0.0
    glacier_reads: float = 0.0
    standard_objects: float = 0.0
    infrequent_objects: float = 0.0
    glacier_objects: float = 0.0


@dataclass(frozen=True, slots=True)
class Lever:
    """Something that would lower the bill, and by how much a month on average of the first year."""

    what: str
    saves: float


@dataclass(frozen=True, slots=True)
class Bill:
    """Dollars a month by line, on average of each year."""

    lines: Mapping[str, Sequence[float]]
    levers: Sequence[Lever] = field(default=())

    @property
    def totals(self) -> list[float]:
        """The sum of each year's month."""
        return [sum(year) for year in zip(*self.lines.values(), strict=True)]

    @property
    def largest(self) -> str:
        """The line that costs most in the first year."""
        return max(self.lines, key=lambda name: self.lines[name][0])


@cache
def measured() -> Mapping[str, Mapping[str, float]]:
    """Return what one instance asks of AWS in each step, by service and operation."""
    text = resources.files(__package__).joinpath("measured.toml").read_text("utf-8")
    return tomllib.loads(text)


def read_prices(path: Path | None = None) -> Prices:
    """Read a list of prices, by default ours; raises `OperatorError`."""
    if path is None:
        return tomllib.loads(
            resources.files(__package__).joinpath("prices.toml").read_text("utf-8")
        )
    try:
        prices = tomllib.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise OperatorError(f"{path} is no list of prices: {error}") from error
    ours = read_prices()
    if missing := sorted(
        f"{group}.{name}"
        for group, names in ours.items()
        if isinstance(names, dict)
        for name in names
        if not isinstance(prices.get(group, {}).get(name), int | float)
    ):
        raise OperatorError(f"{path} has no price of {', '.join(missing)}")
    if missing := sorted(ours.keys() - prices.keys()):
        raise OperatorError(f"{path} does not say: {', '.join(missing)}")
    return prices


def bill(clinic: Clinic, prices: Prices, years: int) -> Bill:
    """Reckon the bill, and what would lower it."""
    lines = _lines(clinic, prices, years)
    first_year = sum(of_years[0] for of_years in lines.values())
    levers = [
        Lever(what, first_year - sum(each[0] for each in _lines(other, prices, 1).values()))
        for what, other in _alternatives(clinic)
    ]
    saving = sorted((lever for lever in levers if lever.saves > 0), key=lambda each: -each.saves)
    return Bill(lines, saving)


def _alternatives(clinic: Clinic) -> list[tuple[str, Clinic]]:
    return [
        (
            "originals go when their form is proven (RetireOriginal=true)",
            replace(clinic, transcode=True, retire_originals=True),
        ),
        (
            f"at once to Glacier Instant Retrieval (*InfrequentDays 0, *GlacierDays {_EARLY_DAYS})",
            replace(clinic, infrequent_days=0, glacier_days=_EARLY_DAYS),
        ),
        ("a VPC that has interface endpoints already (VpcId)", replace(clinic, endpoints=0)),
        (
            "a way to the clinic that is there already (no CustomerGatewayIp)",
            replace(clinic, vpn=False),
        ),
        (
            "a smaller task (GatewayCpu=256, GatewayMemory=512)",
            replace(clinic, vcpus=0.25, memory_gib=0.5),
        ),
        ("no forms beside originals (Transcode=none)", replace(clinic, transcode=False)),
        ("no dashboard (Dashboard=no)", replace(clinic, dashboard=False)),
        (
            "an account that uses nothing else (--free-allowances)",
            replace(clinic, free_allowances=True),
        ),
    ]


def _lines(clinic: Clinic, prices: Prices, years: int) -> dict[str, list[float]]:
    months = [_month(clinic, prices, month) for month in range(years * _MONTHS)]
    return {
        name: [
            sum(month[name] for month in months[start : start + _MONTHS]) / _MONTHS
            for start in range(0, len(months), _MONTHS)
        ]
        for name in months[0]
    }


def _month(clinic: Clinic, prices: Prices, month: int) -> dict[str, float]:
    """Return the lines of one month, the first being 0."""
    s3, dynamodb, network = prices["s3"], prices["dynamodb"], prices["network"]
    free = dict.fromkeys(prices["free"], 0.0) | (prices["free"] if clinic.free_allowances else {})
    asked = _asked(clinic)
    stored = _stored(clinic, month)
    table_gib = clinic.item_bytes * clinic.instances_per_month * (month + 0.5) / _GIB
    log_gib = clinic.log_bytes * clinic.instances_per_month / _GIB
    # The allowance is for both: what comes in uses it up first.
    log_gib_free = min(log_gib, free["logs_gib"])
    out_gib = clinic.gib_out_per_month if clinic.data_out else 0.0
    # In, once more for each retrieval, and to S3 through an endpoint that costs nothing.
    moved_gib = clinic.gib_per_month + clinic.gib_out_per_month
    operations = {name: count for name, count in asked.items() if name.startswith("s3:")}
    writes = sum(count for name, count in operations.items() if name[3:] in _S3_WRITES)
    deletes = sum(count for name, count in operations.items() if name[3:] in _S3_DELETES)
    reads = sum(operations.values()) - writes - deletes
    return {
        "gateway (Fargate)": clinic.tasks * _HOURS * _task_hour(clinic, prices["fargate"]),
        "load balancer": _HOURS * prices["load_balancer"]["hour"]
        + moved_gib * prices["load_balancer"]["capacity_unit_hour"],
        "interface endpoints": _HOURS
        * clinic.endpoints
        * clinic.endpoint_zones
        * network["endpoint_hour"]
        + (log_gib * network["endpoint_gib"] if clinic.endpoints else 0.0),
        "VPN": _HOURS * (network["vpn_hour"] + _TUNNELS * network["public_address_hour"])
        if clinic.vpn
        else 0.0,
        "data out to the clinic": max(0.0, out_gib - free["out_gib"]) * network["out_gib"],
        # Half of the connections come in by the zone that the task is not in.
        "data between zones": moved_gib / 2 * network["between_zones_gib"],
        "S3 Standard": stored.standard * s3["standard_gib"],
        "S3 Standard-IA": stored.infrequent * s3["standard_ia_gib"],
        "S3 Glacier Instant Retrieval": stored.glacier * s3["glacier_ir_gib"],
        "S3 lifecycle transitions": stored.to_infrequent * s3["to_standard_ia"]
        + stored.to_glacier * s3["to_glacier_ir"],
        "S3 retrieval from them": stored.infrequent_read_gib * s3["standard_ia_read_gib"]
        + stored.infrequent_reads * s3["standard_ia_reads"]
        + stored.glacier_read_gib * s3["glacier_ir_read_gib"]
        + stored.glacier_reads * s3["glacier_ir_reads"],
        "verify, which reads all": clinic.verify_per_year
        / _MONTHS
        * _verified(clinic, stored, table_gib, prices),
        "S3 requests": (writes - stored.put_to_glacier) * s3["writes"]
        + stored.put_to_glacier * s3["glacier_ir_writes"]
        + reads * s3["reads"],
        "DynamoDB requests": asked.get("dynamodb:write-units", 0.0) * dynamodb["write_unit"]
        + asked.get("dynamodb:read-units", 0.0) * dynamodb["read_unit"],
        "DynamoDB storage, recovery": max(0.0, table_gib - free["dynamodb_gib"]) * dynamodb["gib"]
        + table_gib * dynamodb["recovery_gib"],
        "Lambda": _functions(clinic, prices["lambda"], free),
        "SQS": prices["sqs"]["request"] * max(0.0, _messages(clinic, asked) - free["sqs_requests"]),
        "traces (X-Ray)": prices["xray"]["trace"]
        * max(0.0, clinic.traced * _calls(clinic) - free["xray_traces"]),
        "logs": (log_gib - log_gib_free) * prices["logs"]["ingested_gib"]
        + max(0.0, 3 * log_gib - (free["logs_gib"] - log_gib_free)) * prices["logs"]["stored_gib"],
        "alarms, metrics, dashboard": max(0.0, clinic.alarms - free["alarms"])
        * prices["cloudwatch"]["alarm"]
        + max(0.0, clinic.metrics - free["metrics"]) * prices["cloudwatch"]["metric"]
        + max(0.0, clinic.dashboard - free["dashboards"]) * prices["cloudwatch"]["dashboard"],
        "KMS": prices["kms"]["key"]
        + max(0.0, sum(asked.values()) / 100 - free["kms_requests"]) * prices["kms"]["request"]
        if clinic.kms_key
        else 0.0,
    }


def _verified(clinic: Clinic, stored: _Stored, table_gib: float, prices: Prices) -> float:
    """Return what `lenticular verify` costs once: it lists and reads all objects and all items."""
    s3 = prices["s3"]
    objects = stored.standard_objects + stored.infrequent_objects + stored.glacier_objects
    read: float = (
        stored.standard_objects * s3["reads"]
        + stored.infrequent_objects * s3["standard_ia_reads"]
        + stored.infrequent * s3["standard_ia_read_gib"]
        + stored.glacier_objects * s3["glacier_ir_reads"]
        + stored.glacier * s3["glacier_ir_read_gib"]
    )
    # A form whose original is gone is read once more, to restore it.
    if clinic.transcode and clinic.retire_originals:
        read *= 2
    read += objects / _KEYS_PER_LISTING * s3["writes"]
    read += table_gib * _GIB / _BYTES_PER_READ_UNIT * prices["dynamodb"]["read_unit"]
    return read


def _asked(clinic: Clinic) -> dict[str, float]:
    """Return what all instances of a month ask of AWS, by service and operation."""
    weights = {
        "stored": 1.0,
        "indexed": 1.0,
        "transcoded": float(clinic.transcode and not clinic.retire_originals),
        "retired": float(clinic.transcode and clinic.retire_originals),
        "retrieved": clinic.retrieved,
    }
    asked: dict[str, float] = {}
    for step, counts in measured().items():
        for name, count in counts.items():
            each = count * weights[step] * clinic.instances_per_month
            asked[name] = asked.get(name, 0.0) + each
    return asked


def _task_hour(clinic: Clinic, fargate: Mapping[str, float]) -> float:
    return clinic.vcpus * fargate["vcpu_hour"] + clinic.memory_gib * fargate["gib_hour"]


def _calls(clinic: Clinic) -> float:
    """Index a batch of ten a call, transcode an instance a call."""
    return clinic.instances_per_month * (0.1 + clinic.transcode)


def _functions(clinic: Clinic, price: Mapping[str, float], free: Mapping[str, float]) -> float:
    calls = _calls(clinic)
    gib_seconds = clinic.instances_per_month / 10 * clinic.index_seconds * clinic.index_gib
    if clinic.transcode:
        gib_seconds += clinic.instances_per_month * clinic.transcode_seconds * clinic.transcode_gib
    return (
        max(0.0, calls - free["lambda_requests"]) * price["request"]
        + max(0.0, gib_seconds - free["lambda_gib_seconds"]) * price["gib_second"]
    )


def _messages(clinic: Clinic, asked: Mapping[str, float]) -> float:
    events = clinic.instances_per_month * _REQUESTS_PER_EVENT
    return (
        _QUEUES * _POLLS_PER_QUEUE
        + events
        + asked.get("sqs:SendMessageBatch", 0.0) * (1 + 2 * clinic.transcode)
    )


def _stored(clinic: Clinic, month: int) -> _Stored:
    """Add up what came in each month so far, by the class that its age has it in."""
    stored = _Stored()
    if not (clinic.transcode and clinic.retire_originals):
        _add_months(stored, clinic, month, 1.0, is_read=True)
    if clinic.transcode:
        _add_months(stored, clinic, month, clinic.form_ratio, is_read=clinic.retire_originals)
        if clinic.retire_originals:
            # Hidden behind its mark an original stays where it is, for so many days.
            months = min(month + 0.5, clinic.retired_days / _DAYS)
            stored.standard += clinic.gib_per_month * months
    return stored


def _add_months(
    stored: _Stored, clinic: Clinic, month: int, ratio: float, *, is_read: bool
) -> None:
    gib = clinic.gib_per_month * ratio
    moves = gib * _GIB / clinic.instances_per_month >= _LEAST_MOVED_BYTES
    at_once = moves and clinic.forms_go_at_once and not is_read
    if at_once:
        stored.put_to_glacier += clinic.instances_per_month
    reads = clinic.retrieved_later / _MONTHS if is_read else 0.0
    for age in range(month + 1):
        # What comes in a month is half a month old on average at its end.
        days = (age + 0.5) * _DAYS
        amount = gib if age else gib / 2
        objects = clinic.instances_per_month * amount / gib
        days_before = days - _DAYS
        if at_once or (moves and clinic.glacier_days and days >= clinic.glacier_days):
            stored.glacier += amount
            stored.glacier_objects += objects
            stored.glacier_read_gib += reads * amount
            stored.glacier_reads += reads * objects
            if not at_once and days_before < clinic.glacier_days:
                stored.to_glacier += clinic.instances_per_month
        elif moves and clinic.infrequent_days and days >= clinic.infrequent_days:
            stored.infrequent += amount
            stored.infrequent_objects += objects
            stored.infrequent_read_gib += reads * amount
            stored.infrequent_reads += reads * objects
            if days_before < clinic.infrequent_days:
                stored.to_infrequent += clinic.instances_per_month
        else:
            stored.standard += amount
            stored.standard_objects += objects
