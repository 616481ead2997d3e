"""The operator's guide says nothing that is not so: alarms, links, commands, parameters, tests."""

import json
import re
import shlex
import subprocess
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import botocore.session
import click
import pytest
from botocore.validate import ParamValidator

from infra.local.template import read_template
from infra.shown_output import written_anew
from lenticular.cli import main
from lenticular.settings import (
    AuditSettings,
    IndexPolicySettings,
    IndexSettings,
    PeerSettings,
    RetentionSettings,
    StackSettings,
)

ROOT = Path(__file__).resolve().parents[2]
GUIDE = ROOT / "infra/guide"
PAGES = sorted([*GUIDE.glob("*.md"), ROOT / "README.md", ROOT / "CONTRIBUTING.md"])
LINKED = [*PAGES, ROOT / "CHANGELOG.md", *sorted(ROOT.glob("infra/decisions/*.md"))]
TEMPLATES = [ROOT / "template.yaml", *sorted(ROOT.glob("infra/*.yaml"))]

#: Words in the form of a parameter's name that are something else, of AWS or of DICOM.
NOT_PARAMETERS = {
    *("AccessDenied", "AccessDeniedException", "CannotPullContainerError", "DeletionPolicy"),
    *("ResourceInitializationError", "ResourceNotFoundException", "SpoolDepth"),
    "DeleteMarkerReplication",
}


def page(name: str) -> str:
    return (GUIDE / name).read_text("utf-8")


def alarms() -> Iterator[tuple[str, str]]:
    """Yield every alarm that is deployed, with its description."""
    for path in TEMPLATES:
        for name, resource in read_template(path)["Resources"].items():
            if resource["Type"] == "AWS::CloudWatch::Alarm":
                yield name, resource["Properties"]["AlarmDescription"]


def test_every_alarm_has_an_entry_in_the_runbook_and_names_it() -> None:
    entries = re.findall(r"^### runbook-(\w+)$", page("runbook.md"), re.MULTILINE)
    described = dict(alarms())
    assert len(described) > 20
    assert sorted(entries) == sorted(described)
    for name, description in described.items():
        assert f"[runbook-{name}]" in description


def test_every_entry_says_what_it_means_and_whether_it_is_urgent() -> None:
    _, *entries = re.split(r"^### ", page("runbook.md"), flags=re.MULTILINE)
    for entry in entries:
        assert re.search(r"\*\*Means\*\*\s", entry), entry[:80]
        assert re.search(r"\*\*Urgent\*\*:\s", entry), entry[:80]


def anchors(text: str) -> set[str]:
    """Return the anchors that a Markdown page gets for its headings, as GitHub makes them."""
    headings = re.findall(
        r"^#+ (.*)$", re.sub(r"```.*?```", "", text, flags=re.DOTALL), re.MULTILINE
    )
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("path", LINKED, ids=lambda path: path.name)
def test_every_link_leads_somewhere(path: Path) -> None:
    text = path.read_text("utf-8")
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if target.startswith("https://"):
            continue
        file, _, anchor = target.partition("#")
        there = (path.parent / file).resolve() if file else path
        assert there.exists(), target
        if anchor:
            assert anchor in anchors(there.read_text("utf-8")), target


def code(text: str) -> Iterator[str]:
    """Yield what stands in code: each line of a block, and each span."""
    for block in re.findall(r"```\w*\n(.*?)```", text, re.DOTALL):
        yield from re.sub(r"\\\n\s*", "", block).splitlines()
    yield from re.findall(r"`([^`\n]+)`", re.sub(r"```.*?```", "", text, flags=re.DOTALL))


def commands() -> list[tuple[str, str]]:
    """Return each command of ours that the pages show, with the page."""
    shown = [
        (path.name, re.split(r" [#>|] ", line.removeprefix("$ "))[0].strip())
        for path in PAGES
        for line in code(path.read_text("utf-8"))
    ]
    return sorted({(name, line) for name, line in shown if re.match(r"(\S*/)?lenticular ", line)})


#: Named in a sentence without what it works on; everything else is shown to be typed.
MENTIONED = {
    *("lenticular cost", "lenticular delete", "lenticular restore", "lenticular send"),
    *("lenticular export", "lenticular import folder", "lenticular import node"),
    "lenticular nodes add",
}

#: Of these parameters of a command exactly one is given; click does not know.
EITHER: dict[str, tuple[str, ...]] = {
    "quarantine retry": ("object_keys", "everything"),
    "commitments retry": ("transaction_uid", "undelivered", "lost"),
}


def parsed(words: list[str]) -> click.Context:
    """Parse a command as click does before it calls it; raises `click.ClickException`."""
    command: click.Command = main
    context = click.Context(main)
    path = []
    while isinstance(command, click.Group):
        path.append(words[0])
        _, found, words = command.resolve_command(context, words)
        assert found is not None
        command = found
    context = command.make_context(" ".join(path), words)
    if either := EITHER.get(" ".join(path)):
        given = [name for name in either if context.params[name]]
        assert len(given) == 1, f"one of {either}"
    return context


@pytest.mark.parametrize(("name", "line"), commands())
def test_every_command_can_be_typed_as_it_is_shown(name: str, line: str) -> None:
    del name
    words = shlex.split(line)[1:]
    if line in MENTIONED:
        with pytest.raises(click.MissingParameter):
            parsed(words)
    elif words != ["--help"]:
        parsed(words)


def test_what_is_only_mentioned_is_shown_somewhere() -> None:
    assert {line for _, line in commands()} >= MENTIONED


def test_the_set_up_of_the_command_line_names_what_the_stack_decides() -> None:
    """What has a default in the stack and another one here would be told wrongly."""
    [block] = re.findall(r"```\n(export .*?)```", page("README.md"), re.DOTALL)
    ours = (
        *(IndexPolicySettings, IndexSettings, StackSettings, RetentionSettings, AuditSettings),
        PeerSettings,
    )
    known = {each.metadata["variable"] for settings in ours for each in fields(settings)}
    with_tls = {name for name in known if "TLS" in name} | {"LENTICULAR_PORT"}
    with_tls.remove("LENTICULAR_TLS_PORT")
    [tls_block] = re.findall(
        r"```\n(export LENTICULAR_HOST=.*?)```", page("deploying.md"), re.DOTALL
    )
    assert set(re.findall(r"^export (\w+)=", tls_block, re.MULTILINE)) == with_tls | {
        "LENTICULAR_HOST"
    }
    # The stack has the registered ports, which are the default here.
    known -= with_tls | {"LENTICULAR_TLS_PORT"}
    # What is transcoded the function decides, and a file of the audit trail is for `make run`.
    known -= {"LENTICULAR_TRANSCODE", "LENTICULAR_AUDIT_FILE", "LENTICULAR_LOG_LEVEL"}
    shown = dict(re.findall(r"^export (\w+)=(\S+)", block, re.MULTILINE))
    assert shown.keys() == known | {"AWS_DEFAULT_REGION"}
    for settings in (StackSettings, RetentionSettings, PeerSettings):
        settings.from_environment(shown)


def test_names_of_resources_have_the_form_that_aws_gives_them() -> None:
    """A resource of a nested stack has that stack's name before its own."""
    [name] = re.findall(
        r"^export LENTICULAR_AUDIT_LOG_GROUP=(\S+)", page("README.md"), re.MULTILINE
    )
    value = read_template(ROOT / "template.yaml")["Outputs"]["AuditLogName"]["Value"]
    nested, _ = value["Fn::GetAtt"]
    assert "AuditLog" in read_template(ROOT / "infra/gateway.yaml")["Resources"]
    assert re.fullmatch(rf"lenticular-{nested}-\w+-AuditLog-\w+", name)


def test_the_output_that_pages_show_is_that_of_the_command() -> None:
    for path in GUIDE.glob("*.md"):
        text = path.read_text("utf-8")
        assert text == written_anew(text), "run `make guide`"
    assert page("cost.md").count("\ntotal ") == 4


def test_an_upgrade_changes_the_image_in_what_sam_saved_and_nothing_else(tmp_path: Path) -> None:
    # As `sam deploy --guided` writes it.
    saved = tmp_path / "samconfig.toml"
    answers = r'parameter_overrides = "GatewayImage=\"{}\" AeTitle=\"CLINIC\" KmsKey=\"\""'
    [line] = (line for line in code(page("continuity.md")) if line.startswith("sed "))
    new = "123456789012.dkr.ecr.eu-central-1.amazonaws.com/lenticular-gateway@sha256:0a1b"
    for former in ("", new.replace("0a1b", "2c3d")):
        saved.write_text(answers.format(former), "utf-8")
        subprocess.run(shlex.split(line.replace("IMAGE|", f"{new}|")), cwd=tmp_path, check=True)
        assert saved.read_text("utf-8") == answers.format(new)


def file_shown(name: str) -> Any:
    """Return what the guide has somebody write into a file of JSON."""
    [text] = re.findall(rf"cat >{name} <<'END'\n(.*?)\nEND\n", page("continuity.md"), re.DOTALL)
    return json.loads(text)


@pytest.mark.parametrize(
    ("name", "operation", "parameter"),
    [
        ("replication.json", "PutBucketReplication", "ReplicationConfiguration"),
        ("lifecycle.json", "PutBucketLifecycleConfiguration", "LifecycleConfiguration"),
    ],
)
def test_what_is_written_for_the_copy_of_the_bucket_is_what_s3_takes(
    name: str, operation: str, parameter: str
) -> None:
    model = botocore.session.get_session().get_service_model("s3").operation_model(operation)
    shape = model.input_shape
    assert shape is not None
    shown = [file_shown(name)]
    if name == "replication.json":
        [with_key] = re.findall(
            r'^    ("SourceSelectionCriteria".*?)```',
            page("continuity.md"),
            re.MULTILINE | re.DOTALL,
        )
        [rule] = shown[0]["Rules"]
        shown.append({**shown[0], "Rules": [{**rule, **json.loads(f"{{{with_key}}}")}]})
    for each in shown:
        given = {"Bucket": "BUCKET", parameter: each}
        report = ParamValidator().validate(given, shape)
        assert not report.has_errors(), report.generate_report()


def test_the_copy_ends_what_the_bucket_ends() -> None:
    """By the same tags: S3 replicates them, and no lifecycle."""
    bucket = read_template(ROOT / "template.yaml")["Resources"]["ArchiveBucket"]["Properties"]
    tags = re.findall(
        r"'TagFilters': \[(\{[^}]*\})", str(bucket["LifecycleConfiguration"]["Rules"])
    )
    rules = file_shown("lifecycle.json")["Rules"]
    there = [str(rule["Filter"]["Tag"]) for rule in rules if "Tag" in rule["Filter"]]
    assert sorted(there) == sorted(tags)
    [markers] = [
        rule["DeleteMarkerReplication"] for rule in file_shown("replication.json")["Rules"]
    ]
    assert markers == {"Status": "Enabled"}


def test_a_stack_beside_the_node_leaves_the_answers_of_the_node_alone() -> None:
    first, *others = (
        line
        for name in ("deploying.md", "continuity.md")
        for line in code(page(name))
        if "sam deploy --guided" in line
    )
    assert "--stack-name lenticular " in first
    assert len(others) == 2
    for line in others:
        assert "--config-env" in line
        assert "--stack-name" in line


def test_every_make_target_exists() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE))
    [parts] = re.findall(r"^PARTS := (.*)$", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE)
    for path in PAGES:
        for line in code(path.read_text("utf-8")):
            if called := re.match(r"make ([a-z-]+)", line):
                assert called[1] in targets | set(parts.split()), line


def test_every_parameter_and_output_exists() -> None:
    document = read_template(ROOT / "template.yaml")
    known = document["Parameters"].keys() | document["Outputs"].keys() | NOT_PARAMETERS
    shown = {
        word
        for path in GUIDE.glob("*.md")
        for span in code(path.read_text("utf-8"))
        for word in [span.partition("=")[0]]
        if re.fullmatch(r"[A-Z][a-z]+([A-Z][A-Za-z]*)+", word)
    }
    assert len(shown) > 30
    assert shown <= known


def test_every_test_that_the_security_notes_name_exists() -> None:
    named = re.findall(r"`(tests/[\w/]+\.py)(?:::(\w+))?`", page("security.md"))
    assert len(named) > 15
    for path, function in named:
        assert (ROOT / path).is_file(), path
        if function:
            assert f"def {function}(" in (ROOT / path).read_text("utf-8"), f"{path}::{function}"
