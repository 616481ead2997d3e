"""The node's stack in the account, a gateway on it, and what tests look at of both."""

import json
import os
import platform
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from infra.local.cloud import Clients
from lenticular.cli.exit_codes import ExitCode
from tests.cloud.deadline import eventually
from tests.cloud.standin import OfflineCloud
from tests.commands import lenticular
from tests.deployed.account import ACCOUNT, REGION, Account
from tests.peers.gateway_process import Gateway, Stores, running_gateway
from tests.peers.node_process import ROOT

STACK: Final = "lenticular"
_CODE_BUCKET: Final = "lenticular-code"
#: Layers of this machine's processor, for functions run on it.
_ARCHITECTURE: Final = "arm64" if platform.machine() == "aarch64" else "x86_64"


def sam_build(folder: Path) -> Path:
    """Build what `sam deploy` takes into a folder, and return that."""
    done = subprocess.run(
        ["make", "build", f"ARCHITECTURE={_ARCHITECTURE}", f"ARGS=--build-dir {folder}"],
        cwd=ROOT,
        # An outer make must not hand its own options down.
        env={name: value for name, value in os.environ.items() if name != "MAKEFLAGS"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return folder


@dataclass(frozen=True)
class DeployedStack:
    """The stack, in an account."""

    account: Account
    build: Path

    @classmethod
    def create(cls, account: Account, build: Path) -> "DeployedStack":
        """Deploy what was built, with the gateway."""
        account.client("s3").create_bucket(
            Bucket=_CODE_BUCKET, CreateBucketConfiguration={"LocationConstraint": REGION}
        )
        stack = cls(account, build)
        stack.deploy(
            Architecture=_ARCHITECTURE,
            GatewayImage=f"{ACCOUNT}.dkr.ecr.{REGION}.amazonaws.com/lenticular-gateway:test",
            KmsKey="create",
            # So that a test need not wait.
            CommitPauseSeconds="1",
            ProcedurePatienceSeconds="800",
        )
        return stack

    def deploy(self, **parameters: str) -> None:
        """Deploy as the README says, but ask nobody; parameters that are not given stay."""
        overrides = [f"{name}={value}" for name, value in parameters.items()]
        done = subprocess.run(
            [
                *(ROOT / ".venv-sam/bin/sam", "deploy"),
                *("--template-file", self.build / "template.yaml", "--stack-name", STACK),
                *("--s3-bucket", _CODE_BUCKET, "--region", REGION, "--no-progressbar"),
                *("--capabilities", "CAPABILITY_IAM", "CAPABILITY_AUTO_EXPAND"),
                *("--parameter-overrides", *overrides),
            ],
            cwd=self.build,
            env={
                **self.account.environment,
                "SAM_CLI_TELEMETRY": "0",
                "HOME": str(self.build),
            },
            capture_output=True,
            text=True,
            check=False,
        )
        said = f"{done.stdout[-3000:]}{done.stderr[-3000:]}; see {self.account.log}"
        assert done.returncode == 0, said

    def delete(self) -> None:
        """Delete the stack and wait for the end of that."""
        client = self.account.client("cloudformation")
        # By its id, by which a stack is known when it is gone.
        [stack] = client.describe_stacks(StackName=STACK)["Stacks"]
        client.delete_stack(StackName=STACK)

        def state() -> str:
            [now] = client.describe_stacks(StackName=stack["StackId"])["Stacks"]
            return f"{now['StackStatus']} {now.get('StackStatusReason', '')}"

        ended = ("DELETE_COMPLETE", "DELETE_FAILED")
        final = eventually(state, until=lambda now: now.startswith(ended), within=240)
        assert final.startswith("DELETE_COMPLETE"), final

    def outputs(self) -> dict[str, str]:
        """Return the outputs."""
        client = self.account.client("cloudformation")
        [stack] = client.describe_stacks(StackName=STACK)["Stacks"]
        return {each["OutputKey"]: each["OutputValue"] for each in stack["Outputs"]}

    def resources(self, stack: str = STACK) -> dict[str, str]:
        """Return physical ids by logical id, those of nested stacks too."""
        found = {}
        pages = self.account.client("cloudformation").get_paginator("list_stack_resources")
        for page in pages.paginate(StackName=stack):
            for each in page["StackResourceSummaries"]:
                found[each["LogicalResourceId"]] = each["PhysicalResourceId"]
                if each["ResourceType"] == "AWS::CloudFormation::Stack":
                    found |= self.resources(each["PhysicalResourceId"])
        return found


@dataclass(frozen=True)
class DeployedNode:
    """A gateway that does with the stack what the deployed task would."""

    stack: DeployedStack
    gateway: Gateway
    credentials: Mapping[str, str]

    def keys(self, prefix: str = "") -> set[str]:
        """List the bucket."""
        pages = self.stack.account.client("s3").get_paginator("list_objects_v2")
        return {
            entry["Key"]
            for page in pages.paginate(Bucket=self.gateway.bucket, Prefix=prefix)
            for entry in page.get("Contents", [])
        }

    def versions(self) -> list[tuple[str, str, str]]:
        """Return key, version and ETag of whatever was put into the bucket, and is not visible."""
        client = self.stack.account.client("s3")
        pages = client.get_paginator("list_object_versions").paginate(Bucket=self.gateway.bucket)
        return sorted(
            (each["Key"], each["VersionId"], each.get("ETag", "a mark of deletion"))
            for page in pages
            for kind in ("Versions", "DeleteMarkers")
            for each in page.get(kind, [])
        )

    def items(self) -> list[dict[str, Any]]:
        """Read the whole table, in order."""
        pages = self.stack.account.client("dynamodb").get_paginator("scan")
        found = [
            item
            for page in pages.paginate(TableName=self.gateway.table, ConsistentRead=True)
            for item in page["Items"]
        ]
        return sorted(found, key=lambda item: (item["pk"]["S"], item["sk"]["S"]))

    def replace_nodes(self, folder: Path, ports: Mapping[str, int | None]) -> None:
        """Make these the nodes, as an operator who may do what the gateway may."""
        nodes = [{"aet": aet, "address": "127.0.0.1", "port": port} for aet, port in ports.items()]
        file = folder / "nodes.yaml"
        file.write_text(json.dumps({"nodes": nodes}), "utf-8")
        self.command(self.credentials, "nodes", "import", "--replace", file)

    def command(self, credentials: Mapping[str, str], *arguments: str | Path) -> str:
        """Run a command and return what it prints; that not all is well is no failure of it."""
        outputs = self.stack.outputs()
        environment = {
            **credentials,
            "LENTICULAR_STACK": STACK,
            "LENTICULAR_BUCKET": self.gateway.bucket,
            "LENTICULAR_TABLE": self.gateway.table,
            "LENTICULAR_TRANSCODE_QUEUE": outputs["TranscodeQueueUrl"],
            "LENTICULAR_AUDIT_LOG_GROUP": outputs["AuditLogName"],
        }
        done = lenticular(environment, *arguments)
        well = (ExitCode.DONE, ExitCode.FINDINGS)
        assert done.returncode in well, (arguments, done.stderr, done.stdout)
        return done.stdout


@contextmanager
def running_node(stack: DeployedStack, folder: Path) -> Iterator[DeployedNode]:
    """Run the gateway with the variables of the deployed task and the credentials of its role."""
    account, outputs, resources = stack.account, stack.outputs(), stack.resources()
    role = account.client("iam").get_role(RoleName=resources["TaskRole"])["Role"]
    credentials = account.as_role(role["Arn"])
    definition = account.client("ecs").describe_task_definition(taskDefinition=resources["Task"])
    [container] = definition["taskDefinition"]["containerDefinitions"]
    settings = {
        **{each["name"]: each["value"] for each in container["environment"]},
        # This machine's in place of the task's.
        "LENTICULAR_BIND": "127.0.0.1",
        "LENTICULAR_PORT": "0",
        "LENTICULAR_HEALTH_PORT": "0",
        "LENTICULAR_SCRATCH_DIR": str(folder),
        # On stdout, of which a test reads the first line only.
        "LENTICULAR_METRICS": "off",
        # So that an instance of some size is a long one.
        "LENTICULAR_MEMORY_BYTES": str(64 << 10),
    }
    clients = Clients(*(account.client(each) for each in ("s3", "sqs", "dynamodb")))
    stores = Stores(
        OfflineCloud(account.endpoint, credentials, clients),
        outputs["BucketName"],
        outputs["TableName"],
    )
    with running_gateway(folder / "gateway.log", stores, settings) as gateway:
        yield DeployedNode(stack, gateway, credentials)


@contextmanager
def person(stack: DeployedStack, role: str, *policies: str) -> Iterator[dict[str, str]]:
    """Have somebody in the account who has these policies, named by the stack's outputs."""
    iam, outputs = stack.account.client("iam"), stack.outputs()
    anybody = {"Effect": "Allow", "Principal": {"AWS": ACCOUNT}, "Action": "sts:AssumeRole"}
    trust = {"Version": "2012-10-17", "Statement": [anybody]}
    arn = iam.create_role(RoleName=role, AssumeRolePolicyDocument=json.dumps(trust))["Role"]["Arn"]
    attached = [outputs[f"{policy}Arn"] for policy in policies]
    for policy in attached:
        iam.attach_role_policy(RoleName=role, PolicyArn=policy)
    yield stack.account.as_role(arn)
    for policy in attached:
        iam.detach_role_policy(RoleName=role, PolicyArn=policy)
    iam.delete_role(RoleName=role)
