"""TLS with nodes that a function calls: it shows the gateway's certificate, out of its secret."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

from botocore.exceptions import BotoCoreError, ClientError

from .aws import error_code
from .errors import OperatorError, StoreUnavailable
from .nodes import Node
from .settings import TlsProfile
from .tls_calling import CallingFiles, Remedies, Tls

_REMEDIES: Final = Remedies(
    authority="the stack must have MutualTls, and its secret who issued it as client_ca",
    any_host="let the node say `tls: any-host`, which takes MutualTls",
    certificate="the stack must have a secret with it, TlsSecretArn",
    plain="let the node say `tls: none`",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class TlsSecret:
    """The secret with `certificate`, `key` and `client_ca`, each PEM, read for each call.

    Attributes:
        client: makes a client of Secrets Manager
        arn: which secret it is; empty where there is none, and nothing to be shown
        trusts_client_ca: whether `client_ca` is who issues nodes' certificates; otherwise those are
            trusted whom the system trusts
    """

    client: Callable[[], Any]
    arn: str
    trusts_client_ca: bool
    profile: TlsProfile

    def with_node(self, node: Node) -> Tls | None:
        """Return how TLS is spoken with a node, `None` where it is called without.

        Raises:
            StoreUnavailable: the secret cannot be read now.
            OperatorError: it does not hold what it should.
        """
        if node.tls == "none":
            return None
        secret = self._read() if self.arn else {}
        names = ["certificate", "key"] if self.arn else []
        if self.trusts_client_ca:
            names.append("client_ca")
        # What ssl takes for a certificate to show is a file.
        with TemporaryDirectory(prefix="tls") as folder:
            files = {name: Path(folder, f"{name}.pem") for name in names}
            for name, path in files.items():
                value = secret.get(name)
                if not isinstance(value, str):
                    raise OperatorError(f"the secret of the certificate has no {name}")
                path.write_text(value)
            authority = files.get("client_ca")
            calling = CallingFiles(
                authority=authority,
                certificate=files.get("certificate"),
                key=files.get("key"),
                # Of those whom the system trusts, anybody may have a certificate.
                any_host=node.tls == "any-host" and authority is not None,
            )
            return Tls(calling.context(self.profile), bool(self.arn), _REMEDIES)

    def _read(self) -> Mapping[str, object]:
        try:
            found = self.client().get_secret_value(SecretId=self.arn)
        except (ClientError, BotoCoreError) as error:
            raise StoreUnavailable(
                f"the secret of the certificate cannot be read: {error_code(error)}"
            ) from error
        try:
            secret = json.loads(found["SecretString"])
        except (KeyError, ValueError):
            secret = None
        if not isinstance(secret, dict):
            raise OperatorError("the secret of the certificate is not a JSON object")
        return secret
