"""Settings: read once, checked whole, documented in one table."""

from pathlib import Path

import pytest

from lenticular.errors import SettingsError
from lenticular.settings import (
    GatewaySettings,
    IndexPolicySettings,
    PeerSettings,
    settings_table,
    unknown_variables,
)

REQUIRED = {"LENTICULAR_BUCKET": "bucket", "LENTICULAR_TABLE": "table"}
NO_BUCKET = {"LENTICULAR_BUCKET": ""}
README = Path(__file__).resolve().parents[2] / "README.md"


def test_the_defaults_are_those_of_the_requirements() -> None:
    settings = GatewaySettings.from_environment(REQUIRED)
    assert settings.ae_title == "LENTICULAR"
    assert settings.port == 11112
    assert settings.max_associations == 10
    assert settings.access == "known-aet"
    assert settings.transfer_syntaxes == "prefer-explicit"
    assert IndexPolicySettings.from_environment(REQUIRED).duplicates == "keep-both"


def test_every_problem_is_reported_at_once() -> None:
    with pytest.raises(SettingsError) as caught:
        GatewaySettings.from_environment(
            {
                "LENTICULAR_TABLE": "table",
                "LENTICULAR_PORT": "eleven",
                "LENTICULAR_AE_TITLE": "A\\B",
                "LENTICULAR_ACCESS": "anyone",
            }
        )
    problems = caught.value.problems
    assert [problem.split()[0] for problem in sorted(problems)] == [
        "LENTICULAR_ACCESS",
        "LENTICULAR_AE_TITLE",
        "LENTICULAR_BUCKET",
        "LENTICULAR_PORT",
    ]


@pytest.mark.parametrize("namespace", ["AWS/ECS", "Node of the clinic", "N" * 256])
def test_a_namespace_is_one_that_cloudwatch_takes(namespace: str) -> None:
    with pytest.raises(SettingsError):
        GatewaySettings.from_environment({**REQUIRED, "LENTICULAR_METRICS_NAMESPACE": namespace})


def test_an_empty_variable_counts_as_not_set() -> None:
    assert GatewaySettings.from_environment({**REQUIRED, "LENTICULAR_PORT": ""}).port == 11112


def test_plain_tcp_may_be_off_where_tls_is_on(tmp_path: Path) -> None:
    file = tmp_path / "node.pem"
    file.touch()
    tls = {
        "LENTICULAR_PORT": "off",
        "LENTICULAR_TLS_PORT": "2762",
        "LENTICULAR_TLS_CERTIFICATE": str(file),
        "LENTICULAR_TLS_KEY": str(file),
    }
    settings = GatewaySettings.from_environment({**REQUIRED, **tls})
    assert (settings.port, settings.tls_port, settings.tls_key) == (None, 2762, file)


@pytest.mark.parametrize(
    ("environment", "problems"),
    [
        ({"LENTICULAR_PORT": "off"}, ["LENTICULAR_PORT is off and LENTICULAR_TLS_PORT too"]),
        (
            {"LENTICULAR_TLS_PORT": "2762"},
            ["LENTICULAR_TLS_CERTIFICATE is not set", "LENTICULAR_TLS_KEY is not set"],
        ),
        (
            {"LENTICULAR_TLS_CERTIFICATE": str(README)},
            ["LENTICULAR_TLS_CERTIFICATE is set, but LENTICULAR_TLS_PORT is not"],
        ),
        (
            {"LENTICULAR_HEALTH_PORT": "http"},
            ["LENTICULAR_HEALTH_PORT must be a whole number from 0 to 65535, or off"],
        ),
        (
            {"LENTICULAR_CUSTODY": "spool"},
            ["LENTICULAR_SPOOL_DIR is not set, but LENTICULAR_CUSTODY is spool"],
        ),
        (
            {"LENTICULAR_SPOOL_DIR": str(README.parent)},
            ["LENTICULAR_SPOOL_DIR is set, but LENTICULAR_CUSTODY is not spool"],
        ),
        (
            {
                "LENTICULAR_CUSTODY": "spool",
                "LENTICULAR_SPOOL_DIR": str(README),
                "LENTICULAR_SPOOL_UPLOADS": "0",
            },
            [
                "LENTICULAR_SPOOL_DIR must be an existing directory",
                "LENTICULAR_SPOOL_UPLOADS must be a whole number from 1 to 256",
            ],
        ),
    ],
)
def test_settings_that_do_not_go_together_are_told(
    environment: dict[str, str], problems: list[str]
) -> None:
    with pytest.raises(SettingsError) as caught:
        GatewaySettings.from_environment({**REQUIRED, **environment})
    assert len(caught.value.problems) == len(problems)
    for problem, beginning in zip(caught.value.problems, problems, strict=True):
        assert problem.startswith(beginning)


def test_commands_may_have_a_gateway_that_takes_tls_alone(tmp_path: Path) -> None:
    file = tmp_path / "commands.pem"
    file.touch()
    settings = PeerSettings.from_environment(
        {"LENTICULAR_PORT": "off", "LENTICULAR_CALLING_TLS_CERTIFICATE": str(file)}
    )
    assert (settings.port, settings.tls_port, settings.calling_tls_key) == (None, 2762, None)
    with pytest.raises(SettingsError, match="LENTICULAR_CALLING_TLS_CERTIFICATE is not"):
        PeerSettings.from_environment({"LENTICULAR_CALLING_TLS_KEY": str(file)})


@pytest.mark.parametrize(
    ("variable", "like"),
    [
        ("LENTICULAR_TLS_CERT", "LENTICULAR_TLS_CERTIFICATE"),
        ("LENTICULAR_AETITLE", "LENTICULAR_AE_TITLE"),
        ("LENTICULAR_COMMIT_GRACE", "LENTICULAR_COMMIT_GRACE_SECONDS"),
        ("LENTICULAR_STACKNAME", "LENTICULAR_STACK"),
        ("LENTICULAR_XYZZY", None),
    ],
)
def test_a_variable_that_is_no_setting_is_told_with_the_one_most_like_it(
    variable: str, like: str | None
) -> None:
    others = {"LENTICULAR_RETENTION_DAYS": "1", "_LENTICULAR_COMPLETE": "bash_source", "HOME": "/"}
    assert unknown_variables({**REQUIRED, **others, variable: "any"}) == {variable: like}
    assert unknown_variables({**REQUIRED, **others, variable: ""}) == {}


def test_a_setting_that_is_missing_is_told_with_what_may_be_meant_by_it() -> None:
    with pytest.raises(SettingsError) as caught:
        GatewaySettings.from_environment({"LENTICULAR_BUKET": "bucket", **REQUIRED, **NO_BUCKET})
    assert caught.value.problems[0].startswith(
        "LENTICULAR_BUCKET is not set (but LENTICULAR_BUKET is): "
    )


def test_transfer_syntaxes_may_be_an_ordered_list() -> None:
    uids = "1.2.840.10008.1.2.4.70, 1.2.840.10008.1.2"
    settings = GatewaySettings.from_environment({**REQUIRED, "LENTICULAR_TRANSFER_SYNTAXES": uids})
    assert settings.transfer_syntaxes == ("1.2.840.10008.1.2.4.70", "1.2.840.10008.1.2")


def test_the_readme_holds_the_table_of_settings() -> None:
    assert settings_table() in README.read_text("utf-8")
