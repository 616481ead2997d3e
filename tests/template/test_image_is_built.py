"""The ways to the gateway's image: what is built, by whom, and what it says it is made of."""

import json
import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import yaml

from infra.local.template import read_template
from tests.template.sam import ROOT, Template

DOCKERFILE = (ROOT / "gateway/Dockerfile").read_text("utf-8")

#: Stands where the AWS CLI would: notes how it is called, keeps the source, and answers.
AWS = """#!/usr/bin/env bash
printf '%s\\n' "$*" >>"$NOTES/calls"
case "$*" in
configure\\ get\\ region) echo "$REGION_OF_THE_PROFILE" ;;
*get-caller-identity*) echo 123456789012 ;;
*SourceBucket*) echo source-bucket ;;
*ProjectName*) echo project ;;
s3\\ cp*) cp "$4" "$NOTES/source.zip" ;;
*start-build*) echo project:1 ;;
*batch-get-builds*) echo "$STATUS" ;;
*describe-images*) echo sha256:0a1b ;;
*get-login-password*) echo secret ;;
esac
"""
#: And where Docker would.
DOCKER = """#!/usr/bin/env bash
printf '%s\\n' "$*" >>"$NOTES/calls"
cat >/dev/null
"""


@pytest.fixture(scope="module")
def builder() -> Template:
    return Template(read_template(ROOT / "infra/image.yaml"))


def run_script(tmp_path: Path, *command: str, **environment: str) -> tuple[int, str, str, str]:
    """Run a script on an account that is not there; return status, output, errors and calls."""
    programs = tmp_path / "bin"
    programs.mkdir()
    for name, text in (("aws", AWS), ("docker", DOCKER)):
        (programs / name).write_text(text, "utf-8")
        (programs / name).chmod(0o755)
    done = subprocess.run(
        command,
        cwd=ROOT,
        env={
            "PATH": f"{programs}:{os.environ['PATH']}",
            "NOTES": str(tmp_path),
            "REGION_OF_THE_PROFILE": "eu-central-1",
            "STATUS": "SUCCEEDED",
            **environment,
        },
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout, done.stderr, (tmp_path / "calls").read_text("utf-8")


NAME = "123456789012.dkr.ecr.eu-central-1.amazonaws.com/lenticular-gateway@sha256:0a1b\n"


def test_an_image_that_docker_built_is_pushed_and_named_by_digest(
    tmp_path: Path, written: Template
) -> None:
    status, output, errors, calls = run_script(
        tmp_path, "infra/push_image.sh", "docker", "lenticular-gateway", "1.0"
    )
    assert (status, output) == (0, NAME), errors
    assert re.search(r"^push \S+/lenticular-gateway:1\.0-\d{14}$", calls, re.MULTILINE)
    pattern = written.document["Parameters"]["GatewayImage"]["AllowedPattern"]
    assert re.fullmatch(pattern, output.strip())


# Not from make's own choice: where the image is not in the stack's region, no task starts.
@pytest.mark.parametrize(
    ("environment", "region"),
    [
        ({}, "eu-west-1"),
        ({"AWS_DEFAULT_REGION": "us-east-2"}, "us-east-2"),
        ({"AWS_DEFAULT_REGION": "us-east-2", "AWS_REGION": "us-west-2"}, "us-west-2"),
    ],
)
def test_an_image_is_pushed_to_the_region_that_the_aws_cli_is_set_up_for(
    tmp_path: Path, environment: dict[str, str], region: str
) -> None:
    status, output, errors, calls = run_script(
        tmp_path, "make", "push-image", **{"REGION_OF_THE_PROFILE": "eu-west-1", **environment}
    )
    assert status == 0, errors
    assert output.endswith(f"\n{NAME.replace('eu-central-1', region)}")
    assert re.search(rf"^push \S+\.{region}\.amazonaws\.com/", calls, re.MULTILINE)


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="what is built is what is committed")
def test_an_image_can_be_built_without_docker_from_what_the_dockerfile_copies(
    tmp_path: Path,
) -> None:
    status, output, errors, calls = run_script(
        tmp_path, "infra/build_image.sh", "lenticular-gateway", "1.0", "arm64"
    )
    assert (status, output) == (0, NAME), errors
    assert "--stack-name lenticular-image-arm64" in calls
    assert "Base=" not in calls
    copied = {
        path
        for line in re.findall(r"^COPY (?!--from)(.+)$", DOCKERFILE, re.MULTILINE)
        for path in line.split()[:-1]
    }
    assert copied
    with zipfile.ZipFile(tmp_path / "source.zip") as source:
        names = source.namelist()
    for path in ("gateway/Dockerfile", "gateway/Dockerfile.dockerignore", *copied):
        assert any(name.startswith(path) for name in names), path
    assert not any(name.startswith(("tests/", ".")) for name in names)


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="what is built is what is committed")
def test_a_build_that_fails_is_told_as_one(tmp_path: Path) -> None:
    status, output, errors, _ = run_script(
        tmp_path, "infra/build_image.sh", "lenticular-gateway", "1.0", "x86_64", STATUS="FAILED"
    )
    assert (status, output) == (2, "")
    assert "FAILED" in errors


def test_a_build_on_aws_calls_docker_with_what_the_dockerfile_takes(builder: Template) -> None:
    [project] = builder.properties("AWS::CodeBuild::Project").values()
    commands = yaml.safe_load(project["Source"]["BuildSpec"])["phases"]["build"]["commands"]
    taken = set(re.findall(r"^ARG (\w+)", DOCKERFILE, re.MULTILINE))
    assert set(re.findall(r"--build-arg (\w+)=", " ".join(commands))) == taken
    given = {each["Name"] for each in project["Environment"]["EnvironmentVariables"]}
    with_each_build = {"TAG", "VERSION"}
    assert set(re.findall(r"\$(\w+)", " ".join(commands))) == given | with_each_build


def test_the_builder_may_push_to_one_repository_only(builder: Template) -> None:
    [role] = builder.properties("AWS::IAM::Role").values()
    for statement in role["Policies"][0]["PolicyDocument"]["Statement"]:
        assert "*" not in json.dumps(statement["Action"])
        if statement["Resource"] == "*":
            assert statement["Action"] == "ecr:GetAuthorizationToken"


def test_the_builder_may_ask_what_docker_asks_when_it_pushes(builder: Template) -> None:
    [role] = builder.properties("AWS::IAM::Role").values()
    [actions] = (
        each["Action"]
        for each in role["Policies"][0]["PolicyDocument"]["Statement"]
        if each["Sid"] == "PushImage"
    )
    # As the manual of ECR lists them, "IAM permissions for pushing an image".
    assert {each.removeprefix("ecr:") for each in actions} == {
        *("BatchCheckLayerAvailability", "BatchGetImage", "CompleteLayerUpload"),
        *("InitiateLayerUpload", "PutImage", "UploadLayerPart"),
    }


def test_a_bill_of_materials_names_what_is_there() -> None:
    # As `make sbom` does it in a container: a Python that has nothing of ours.
    done = subprocess.run(
        [sys.executable, "-I", "-"],
        input=(ROOT / "infra/sbom.py").read_text("utf-8"),
        capture_output=True,
        text=True,
        check=True,
    )
    bill = json.loads(done.stdout)
    assert (bill["bomFormat"], bill["specVersion"]) == ("CycloneDX", "1.6")
    references = [each["bom-ref"] for each in bill["components"]]
    assert len(references) == len(set(references))
    assert any(each.startswith("pkg:pypi/pydicom@3.") for each in references)
