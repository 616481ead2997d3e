"""Start the node offline: `python -m infra.local --help`."""

import argparse
import importlib.util
import logging
import os
import sys
from pathlib import Path
from typing import Final, NoReturn

from . import ROOT

_USAGE_STATUS: Final = 2
#: What the node's processes import from outside; each would fail on its own, and less clearly.
_PACKAGES: Final = (
    "aws_lambda_powertools", "boto3", "flask", "flask_cors", "moto", "obstore", "pydicom",
    "pynetdicom", "samtranslator", "yaml",
)  # fmt: skip


class _Parser(argparse.ArgumentParser):
    """Says in one sentence what is wrong, without the usage."""

    def error(self, message: str) -> NoReturn:
        self.exit(_USAGE_STATUS, f"{message}; see --help\n")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="python -m infra.local",
        description="Run the node offline, with moto as AWS, from template.yaml. Nothing that is "
        "stored outlives it. Settings of the gateway may also come as LENTICULAR_* variables.",
    )
    add = parser.add_argument
    add("--port", metavar="PORT", help="DIMSE port, 0 for a free one (default 11112)")
    add("--host", metavar="ADDRESS", help="address to listen on (default 127.0.0.1)")
    add("--aet", metavar="TITLE", help="AE title of the node (default LENTICULAR)")
    add("--nodes", metavar="FILE", help="nodes file to load")
    add("--access", metavar="POLICY", help="who may connect (default open)")
    add("--aws-port", metavar="PORT", type=_port, default=5555,
        help="port of moto, 0 for a free one (default 5555)")  # fmt: skip
    add("--set", metavar="NAME=VALUE", type=_assignment, action="append", default=[],
        dest="parameters", help="parameter of the template; repeatable")  # fmt: skip
    add("--template", metavar="FILE", type=Path, default=ROOT / "template.yaml",
        help="template to run (default template.yaml)")  # fmt: skip
    add("--verbose", action="store_true", help="also tell what of the template is not offline")
    return parser


def _port(text: str) -> int:
    if text.isdecimal() and int(text) < 1 << 16:
        return int(text)
    raise argparse.ArgumentTypeError(f"{text!r} is no port")


def _assignment(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not (name and equals):
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=VALUE")
    return name, value


def _forget_aws() -> None:
    """Keep the person's AWS account, profile and endpoints out of this process."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        del os.environ[name]
    os.environ |= {"AWS_CONFIG_FILE": os.devnull, "AWS_SHARED_CREDENTIALS_FILE": os.devnull}


#: Options that are settings of the gateway, which checks them.
_SETTINGS: Final = {
    "aet": "LENTICULAR_AE_TITLE",
    "access": "LENTICULAR_ACCESS",
    "host": "LENTICULAR_BIND",
    "nodes": "LENTICULAR_NODES_FILE",
    "port": "LENTICULAR_PORT",
}


def main() -> int:
    """Run the node and return its exit status: 2 when a person has to change something."""
    given = _parser().parse_args()
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s", stream=sys.stderr)
    if given.verbose:
        logging.getLogger("infra.local").setLevel(logging.DEBUG)
    if missing := [name for name in _PACKAGES if importlib.util.find_spec(name) is None]:
        print(
            f"missing Python packages: {', '.join(missing)}; `make run` installs them",
            file=sys.stderr,
        )
        return _USAGE_STATUS
    # As Lambda and the gateway's image lay it out: the core layer is on the path.
    sys.path.insert(0, str(ROOT / "layers" / "core"))
    from lenticular.errors import OperatorError  # noqa: PLC0415 - found by the line above

    from .node import Node, Options  # noqa: PLC0415 - needs the packages

    options = Options(
        settings={
            variable: getattr(given, option)
            for option, variable in _SETTINGS.items()
            if getattr(given, option) is not None
        },
        aws_port=given.aws_port,
        parameters=dict(given.parameters),
        template=given.template,
    )
    person = dict(os.environ)
    _forget_aws()
    try:
        return Node(options, person).run()
    except OperatorError as error:
        if message := str(error):
            print(message, file=sys.stderr)
        return _USAGE_STATUS


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        # While still loading: nothing runs yet, so there is nothing to drain.
        sys.exit(0)
