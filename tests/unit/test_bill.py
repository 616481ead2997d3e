"""`lenticular cost`: the bill follows the template, the prices and what was measured."""

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from infra.local.template import read_template
from lenticular.cli import main
from lenticular.cli.bill import Clinic, bill, measured, read_prices

ROOT = Path(__file__).resolve().parents[2]
PRICES = read_prices()
CLINIC = Clinic(studies_per_day=50, instances=500, mb=250)
ASKED = ("--studies-per-day", "50", "--instances", "500", "--mb", "250")


def parameters() -> dict[str, Any]:
    found: dict[str, Any] = read_template(ROOT / "template.yaml")["Parameters"]
    return {name: each.get("Default") for name, each in found.items()}


def resources(file: str) -> dict[str, Any]:
    found: dict[str, Any] = read_template(ROOT / file)["Resources"]
    return found


def test_what_is_deployed_by_default_is_what_is_reckoned_with() -> None:
    default = parameters()
    assert CLINIC.vcpus == default["GatewayCpu"] / 1024
    assert CLINIC.memory_gib == default["GatewayMemory"] / 1024
    assert CLINIC.tasks == default["MinTasks"]
    assert CLINIC.retired_days == default["RetiredDays"]
    assert CLINIC.retire_originals == (default["RetireOriginal"] == "true")
    assert CLINIC.transcode == (default["Transcode"] != "none")
    for kind in ("Originals", "Forms"):
        assert CLINIC.infrequent_days == default[f"{kind}InfrequentDays"]
        assert CLINIC.glacier_days == default[f"{kind}GlacierDays"]
    # Each metric of an alarm is paid for; and scaling makes two alarms for each of its policies.
    deployed = [
        each
        for file in ("template.yaml", "infra/gateway.yaml", "infra/network.yaml")
        for each in resources(file).values()
        if each.get("Condition") in (None, "HasVpn")
    ]
    alarms = sum(
        sum("MetricStat" in metric for metric in each["Properties"].get("Metrics", [])) or 1
        for each in deployed
        if each["Type"] == "AWS::CloudWatch::Alarm"
    )
    policies = [each["Type"] for each in deployed].count(
        "AWS::ApplicationAutoScaling::ScalingPolicy"
    )
    assert CLINIC.alarms == alarms + 2 * policies
    endpoints = [
        each
        for each in resources("infra/network.yaml").values()
        if each["Type"] == "AWS::EC2::VPCEndpoint"
        and each["Properties"].get("VpcEndpointType") == "Interface"
        and "Condition" not in each
    ]
    assert CLINIC.endpoints == len(endpoints)
    memory = {
        name: each["Properties"]["MemorySize"] / 1024
        for name, each in resources("template.yaml").items()
        if each["Type"] == "AWS::Serverless::Function"
    }
    assert (CLINIC.index_gib, CLINIC.transcode_gib) == (
        memory["IndexFunction"],
        memory["TranscodeFunction"],
    )


def test_no_metric_is_paid_for_that_nobody_looks_at_and_each_is_reckoned_with() -> None:
    of_gateway = set(
        re.findall(
            r'^    "(\w+)": "(?:Bytes|Count|Seconds)"',
            (ROOT / "gateway/metrics.py").read_text(),
            re.MULTILINE,
        )
    )
    of_functions = {
        name
        for file in ROOT.glob("functions/*/app.py")
        for name in re.findall(
            r'"([A-Z][A-Za-z]+)"(?=,\s*MetricUnit|: int|: reasons)', file.read_text()
        )
    }
    shown = "".join(
        (ROOT / file).read_text()
        for file in ("template.yaml", "infra/gateway.yaml", "infra/dashboard.yaml")
    )
    unseen = {name for name in of_gateway | of_functions if not re.search(rf"\b{name}\b", shown)}
    # What a query costs; and lines that were lost, which nobody hopes for.
    assert unseen == {"QueryItemsRead", "QueryCapacityUnits", "MetricLinesLost"}
    seldom = {
        *("AssociationsRejected", "CertificateDaysLeft", "DeletionsBrokenOff", "MetricLinesLost"),
        "ProceduresIncomplete",
    }
    seldom |= {name for name in of_gateway if name.startswith("Spool")}
    # Failures have two kinds on an ordinary day.
    assert CLINIC.metrics == len((of_gateway | of_functions) - seldom) + 1


def test_lines_are_what_their_prices_make_of_them() -> None:
    lines = bill(CLINIC, PRICES, 2).lines
    assert lines["gateway (Fargate)"] == pytest.approx([730 * (0.5 * 0.03238 + 0.00356)] * 2)
    assert lines["interface endpoints"][0] == pytest.approx(4 * 730 * 0.01, rel=0.01)
    # 760,000 instances a month: each is put, and its form into a colder class.
    puts = 50 * 500 * 30.4 * (PRICES["s3"]["writes"] + PRICES["s3"]["glacier_ir_writes"])
    assert puts < lines["S3 requests"][0] < 1.1 * puts
    assert lines["traces (X-Ray)"] == pytest.approx([50 * 500 * 30.4 * 1.1 * 0.1 * 5e-6] * 2)
    # Without a colder class: half of a year's growth on average, and then a whole year's more.
    warm = replace(CLINIC, transcode=False, infrequent_days=0, glacier_days=0)
    first, second = bill(warm, PRICES, 2).lines["S3 Standard"]
    gib = 50 * 250e6 * 30.4 / 2**30
    assert first == pytest.approx(6 * gib * 0.023)
    assert second - first == pytest.approx(12 * gib * 0.023)
    cold = bill(replace(warm, infrequent_days=30, glacier_days=120), PRICES, 2)
    assert cold.lines["S3 Standard-IA"][1] > 0
    assert cold.lines["S3 Glacier Instant Retrieval"][1] > cold.lines["S3 Standard"][1]
    assert cold.totals[1] < bill(warm, PRICES, 2).totals[1]


def test_forms_that_nobody_reads_are_cold_at_once_and_cost_less() -> None:
    cold, warm = bill(CLINIC, PRICES, 3), bill(replace(CLINIC, glacier_days=0), PRICES, 3)
    assert all(low < high for low, high in zip(cold.totals, warm.totals, strict=True))
    # In the first months nothing else is there.
    alone = bill(replace(CLINIC, glacier_days=365), PRICES, 1).lines["S3 Glacier Instant Retrieval"]
    gib = 50 * 250e6 * 30.4 / 2**30
    assert alone == pytest.approx([6 * 0.45 * gib * 0.004])
    # A form shorter than 128 KiB would gain nothing by it.
    short = bill(replace(CLINIC, mb=100), PRICES, 1).lines["S3 requests"]
    assert short[0] < cold.lines["S3 requests"][0] / 2


def test_what_is_read_from_a_colder_class_is_paid_for() -> None:
    read = bill(CLINIC, PRICES, 3).lines["S3 retrieval from them"]
    twice = bill(replace(CLINIC, retrieved_later=0.2), PRICES, 3).lines["S3 retrieval from them"]
    assert twice == pytest.approx([2 * each for each in read])
    gib = 50 * 250e6 * 30.4 / 2**30
    # In the last month originals of 36 months are there, of which 4 months are in Standard.
    month = gib * 0.1 / 12 * 0.03 + 50 * 500 * 30.4 * 0.1 / 12 * 1e-5
    assert 20 * month < read[2] < 32 * month
    # Where originals go, forms are what is read.
    retired = bill(replace(CLINIC, retire_originals=True), PRICES, 3)
    assert 0 < retired.lines["S3 retrieval from them"][2] < read[2]


def test_what_a_verification_reads_is_paid_for() -> None:
    monthly = bill(replace(CLINIC, verify_per_year=12), PRICES, 2)
    line = monthly.lines["verify, which reads all"]
    assert bill(CLINIC, PRICES, 2).lines["verify, which reads all"] == [0, 0]
    assert bill(replace(CLINIC, verify_per_year=6), PRICES, 2).lines[
        "verify, which reads all"
    ] == pytest.approx([each / 2 for each in line])
    # On average of the second year, forms of 18 months and originals of 14 are in the colder class.
    gib, instances = 50 * 250e6 * 30.4 / 2**30, 50 * 500 * 30.4
    cold = (18 * 0.45 + 14) * gib * 0.03 + (18 + 14) * instances * 1e-5
    table = 18 * instances * 2000 / 8192 * PRICES["dynamodb"]["read_unit"]
    assert line[1] == pytest.approx(cold + table, rel=0.05)


def verification_rows() -> dict[str, list[str]]:
    """Return what the guide says a verification costs, by the arguments of `lenticular cost`."""
    text = (ROOT / "infra/guide/cost.md").read_text("utf-8")
    rows = re.findall(r"^\| `(--studies-per-day [^`]*)` \| (.*) \|$", text, re.MULTILINE)
    return {arguments: figures.split(" | ") for arguments, figures in rows}


def test_the_guide_says_what_a_verification_costs() -> None:
    rows = verification_rows()
    assert len(rows) == 3
    for arguments, figures in rows.items():
        words = arguments.split()
        given = dict(zip(words[::2], map(float, words[1::2]), strict=True))
        clinic = Clinic(
            studies_per_day=given["--studies-per-day"],
            instances=given["--instances"],
            mb=given["--mb"],
            verify_per_year=12,
        )
        once = bill(clinic, PRICES, 3).lines["verify, which reads all"]
        assert figures == [f"{once[0]:.2f}", f"{once[2]:.2f}", f"{once[2] / 100:.2f}"]


def test_a_vpn_is_paid_with_its_addresses_and_the_data_that_goes_out() -> None:
    reckoned = bill(CLINIC, PRICES, 1)
    assert reckoned.lines["VPN"][0] == pytest.approx(730 * (0.05 + 2 * 0.005))
    out = 50 * 250e6 * 30.4 / 2**30 / 2
    assert reckoned.lines["data out to the clinic"][0] == pytest.approx(0.09 * out)
    free = bill(replace(CLINIC, free_allowances=True), PRICES, 1)
    assert free.lines["data out to the clinic"][0] == pytest.approx(0.09 * (out - 100))
    rare = bill(replace(CLINIC, free_allowances=True, retrieved=0.1), PRICES, 1)
    assert rare.lines["data out to the clinic"] == [0]
    other = bill(replace(CLINIC, vpn=False, data_out=False), PRICES, 1)
    assert other.lines["VPN"] == other.lines["data out to the clinic"] == [0]


def test_what_aws_gives_for_nothing_is_taken_off() -> None:
    small = replace(CLINIC, studies_per_day=1, kms_key=True, free_allowances=True)
    assert bill(small, PRICES, 1).lines["KMS"] == [1.0]
    assert bill(small, PRICES, 1).lines["logs"] == [0]
    assert bill(replace(small, free_allowances=False), PRICES, 1).lines["KMS"][0] > 1.0
    # 6 GiB of logs a month: one more than is free comes in, and nothing is left for what is stored.
    logs = replace(small, log_bytes=round(6 * 2**30 / small.instances_per_month))
    assert bill(logs, PRICES, 1).lines["logs"][0] == pytest.approx(0.50 + 18 * 0.03, rel=1e-4)


def test_what_would_lower_the_bill_does() -> None:
    reckoned = bill(CLINIC, PRICES, 1)
    savings = [lever.saves for lever in reckoned.levers]
    assert savings == sorted(savings, reverse=True)
    # Whatever the way, it asks for data too.
    [vpn] = [lever for lever in reckoned.levers if "CustomerGatewayIp" in lever.what]
    assert vpn.saves == pytest.approx(reckoned.lines["VPN"][0])
    assert reckoned.lines[reckoned.largest][0] == max(each[0] for each in reckoned.lines.values())
    without = bill(replace(CLINIC, vpn=False), PRICES, 1)
    assert not [lever for lever in without.levers if "CustomerGatewayIp" in lever.what]


@settings(deadline=None)
@given(
    st.floats(0.1, 500), st.floats(1, 5000), st.floats(1, 5000), st.integers(1, 4), st.booleans()
)
def test_no_line_is_negative_and_more_studies_are_never_cheaper(
    studies: float, instances: float, mb: float, years: int, retires: bool
) -> None:
    clinic = Clinic(studies_per_day=studies, instances=instances, mb=mb, retire_originals=retires)
    less = bill(clinic, PRICES, years)
    more = bill(replace(clinic, studies_per_day=2 * studies), PRICES, years)
    for name, amounts in less.lines.items():
        assert all(
            0 <= low <= high + 1e-9 for low, high in zip(amounts, more.lines[name], strict=True)
        )
    # But for what is lost in rounding.
    assert less.totals == pytest.approx(sorted(less.totals))


def test_every_step_that_is_reckoned_with_was_measured() -> None:
    assert measured().keys() == {"stored", "indexed", "transcoded", "retired", "retrieved"}
    assert measured()["stored"]["s3:PutObject"] == 1


def test_the_bill_is_printed_for_people_and_for_programs() -> None:
    people = CliRunner().invoke(main, ["cost", *ASKED, "--years", "3"])
    assert people.exit_code == 0, people.output
    assert str(PRICES["date"]) in people.output
    assert "The largest line of the first year is" in people.output
    program = json.loads(CliRunner().invoke(main, ["cost", *ASKED, "--json"]).output)
    assert program["gib_out_not_reckoned"] == 0
    without = CliRunner().invoke(main, ["cost", *ASKED, "--no-vpn"]).output
    assert "data out to the clinic" not in without
    assert "Without 177 GiB a month that go out to the clinic" in without
    *lines, total = program["lines"]
    assert total["year_1"] == pytest.approx(sum(line["year_1"] for line in lines), abs=0.1)
    assert program["largest"] in {line["line"] for line in lines}


def test_another_list_of_prices_is_taken_if_it_is_whole(tmp_path: Path) -> None:
    ours = (ROOT / "layers/core/lenticular/cli/prices.toml").read_text()
    file = tmp_path / "prices.toml"
    file.write_text(ours.replace("us-east-1", "eu-central-1"))
    done = CliRunner().invoke(main, ["cost", *ASKED, "--prices", str(file)])
    assert "eu-central-1" in done.output
    file.write_text(ours.replace("vpn_hour", "vpn_day"))
    done = CliRunner().invoke(main, ["cost", *ASKED, "--prices", str(file)])
    assert (done.exit_code, "network.vpn_hour" in done.stderr) == (2, True)
    file.write_text(ours.replace("region =", "place ="))
    done = CliRunner().invoke(main, ["cost", *ASKED, "--prices", str(file)])
    assert (done.exit_code, "does not say: region" in done.stderr) == (2, True)


def test_the_clinic_of_the_goal_stays_below_a_hundred_dollars_where_it_brings_its_network() -> None:
    frugal = replace(
        CLINIC, vpn=False, data_out=False, endpoints=0, retire_originals=True,
        vcpus=0.25, memory_gib=0.5, free_allowances=True,
    )  # fmt: skip
    assert bill(frugal, PRICES, 1).totals[0] < 100
