"""The remote nodes: the file the operator edits, and the table the gateway reads.

The file is loaded into the table at start and by a command; the gateway reads the table through a
short cache, so a change needs no restart.
"""

import ipaddress
import json
import logging
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, get_args

from botocore.exceptions import BotoCoreError, ClientError

from .aws import error_code
from .errors import NodesFileError, StoreUnavailable
from .identifiers import is_ae_title

if TYPE_CHECKING:
    from mypy_boto3_dynamodb import DynamoDBClient

PERMISSIONS: Final = ("store", "find", "move", "commit", "mpps")
#: How many instances we send to a node over one association: all of a retrieval, or, for old
#: receivers that take one storage class or one instance at a time, a single one.
Associations = Literal["one-per-retrieval", "one-per-instance"]
_ONE_PER_RETRIEVAL: Final = "one-per-retrieval"
#: Whether we call a node by TLS, and then whether its certificate must be for the host that is
#: called. Modalities are called by address and often come with a certificate that has none.
TlsUse = Literal["none", "host", "any-host"]
_PLAIN: Final = "none"
_FIELDS: Final = ("aet", "address", "port", "may", "associations", "tls")
_PARTITION: Final = "NODE"
_log: Final = logging.getLogger(__name__)

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


@dataclass(frozen=True, slots=True)
class Node:
    """A remote application entity.

    `address` is a host name, an IP address or a CIDR; `port` is None where we never send to it.
    """

    aet: str
    address: str
    port: int | None
    may: frozenset[str]
    associations: Associations = _ONE_PER_RETRIEVAL
    tls: TlsUse = _PLAIN

    @property
    def addresses(self) -> tuple[Network | str, ...]:
        """The address as a network, or the host name as it is."""
        try:
            return (ipaddress.ip_network(self.address, strict=False),)
        except ValueError:
            return (self.address,)


def read_nodes_file(path: Path) -> list[Node]:
    """Read a nodes file, or raise `NodesFileError` naming the entry that is wrong."""
    # Functions read nodes from the table only, and have no YAML among their layers.
    import yaml  # noqa: PLC0415

    try:
        document = yaml.safe_load(path.read_text("utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise NodesFileError(f"nodes file {path} cannot be read: {reason}") from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f" at line {mark.line + 1}" if mark else ""
        raise NodesFileError(f"nodes file {path} is not valid YAML{where}") from error
    if document is None:
        return []
    if not isinstance(document, dict) or set(document) != {"nodes"}:
        raise NodesFileError(f"nodes file {path} must hold one list named `nodes`")
    entries = document["nodes"] or []
    if not isinstance(entries, list):
        raise NodesFileError(f"nodes file {path}: `nodes` must be a list")
    nodes: dict[str, Node] = {}
    for position, entry in enumerate(entries, 1):
        try:
            node = node_of(entry)
        except ValueError as error:
            raise NodesFileError(f"nodes file {path}, node {position}: {error}") from error
        if node.aet in nodes:
            raise NodesFileError(f"nodes file {path}, node {position}: {node.aet} is there twice")
        nodes[node.aet] = node
    return list(nodes.values())


def node_of(entry: object) -> Node:
    """Read an entry of a nodes file, or raise `ValueError` that says what is wrong with it."""
    if not isinstance(entry, dict):
        raise ValueError("must be a mapping with aet and address")  # noqa: TRY004 - one error for the file
    unknown = sorted(str(name) for name in entry if name not in _FIELDS)
    if unknown:
        raise ValueError(f"has unknown {', '.join(unknown)}; known are {', '.join(_FIELDS)}")
    aet, address = entry.get("aet"), entry.get("address")
    if not (isinstance(aet, str) and is_ae_title(aet)):
        raise ValueError("aet must be 1 to 16 ASCII characters without a backslash")
    if not (isinstance(address, str) and address and not any(c.isspace() for c in address)):
        raise ValueError("address must be an IP address, a CIDR or a host name")
    port = entry.get("port")
    if port is not None and not (type(port) is int and 1 <= port <= 65535):  # noqa: PLR2004
        raise ValueError("port must be a whole number from 1 to 65535")
    is_cidr = "/" in address
    # No host's name is digits and dots alone (RFC 1123 2.1), so it is a number mistyped.
    if is_cidr or not address.strip("0123456789."):
        try:
            ipaddress.ip_network(address, strict=False)
        except ValueError as error:
            what = "a CIDR" if is_cidr else "an IP address"
            raise ValueError(f"address looks like {what} but is not one") from error
    if is_cidr and port is not None:
        raise ValueError("address is a CIDR, so we cannot send to it: leave out port")
    return Node(aet, address, port, *_policies(entry))


def _policies(entry: Mapping[str, Any]) -> tuple[frozenset[str], Associations, TlsUse]:
    """Return what a node may do, how it is sent to, and whether by TLS."""
    may = entry.get("may", list(PERMISSIONS))
    if not isinstance(may, list) or not set(may) <= set(PERMISSIONS):
        raise ValueError(f"may must be a list out of {', '.join(PERMISSIONS)}")
    associations = entry.get("associations", _ONE_PER_RETRIEVAL)
    if associations not in get_args(Associations):
        raise ValueError(f"associations must be {' or '.join(get_args(Associations))}")
    tls = entry.get("tls", _PLAIN)
    if tls not in get_args(TlsUse):
        raise ValueError(f"tls must be one of {', '.join(get_args(TlsUse))}")
    return frozenset(may), associations, tls


def entry_of(node: Node) -> dict[str, Any]:
    """Write a node as an entry of a nodes file."""
    return {
        "aet": node.aet,
        "address": node.address,
        **({} if node.port is None else {"port": node.port}),
        "may": [each for each in PERMISSIONS if each in node.may],
        "associations": node.associations,
        "tls": node.tls,
    }


class NodeTable:
    """The nodes in the table. Safe to share between threads.

    `find` answers from a copy at most `cache_seconds` old, or from an older one when the table does
    not give a new one within `patience_seconds`: a modality must not be refused, nor kept waiting,
    over a moment's throttling.
    """

    def __init__(
        self,
        client: "DynamoDBClient",
        table: str,
        *,
        cache_seconds: float = 5.0,
        patience_seconds: float = 1.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Read and write nodes in `table`."""
        self._client = client
        self._table = table
        self._cache_seconds = cache_seconds
        self._patience_seconds = patience_seconds
        self._clock = clock
        self._lock = threading.Lock()
        self._cached: Mapping[str, Node] | None = None
        self._read_at = 0.0
        self._reading: threading.Thread | None = None
        #: Why the last attempt to read failed, if it did.
        self._failure: str | None = None

    def find(self, aet: str, *, first_patience_seconds: float = 10.0) -> Node | None:
        """Return the node with this AE title, None when there is none.

        As long as there is no copy, one is waited for, for `first_patience_seconds`. Raises
        `StoreUnavailable` when there is none then.
        """
        with self._lock:
            is_first, reading = self._cached is None, self._reading
            if reading is None and (
                is_first or self._clock() - self._read_at >= self._cache_seconds
            ):
                # Whoever asks meanwhile waits for the same attempt, and none longer than it likes.
                reading = threading.Thread(target=self._read, daemon=True)
                self._reading = reading
                reading.start()
        if reading is not None:
            reading.join(first_patience_seconds if is_first else self._patience_seconds)
        cached = self._cached
        if cached is None:
            raise StoreUnavailable(self._failure or "the nodes have not been read yet")
        return cached.get(aet)

    def _read(self) -> None:
        try:
            self._cached = {node.aet: node for node in self.all()}
            self._failure = None
        except StoreUnavailable as error:
            if self._failure is None:
                _log.warning("nodes not read", extra={"reason": str(error)})
            self._failure = str(error)
        finally:
            self._read_at = self._clock()
            self._reading = None

    def all(self) -> list[Node]:
        """Read every node from the table, in order of AE title."""
        request: dict[str, Any] = {
            "TableName": self._table,
            "KeyConditionExpression": "pk = :node",
            "ExpressionAttributeValues": {":node": {"S": _PARTITION}},
            "ConsistentRead": True,
        }
        nodes: list[Node] = []
        try:
            for page in self._client.get_paginator("query").paginate(**request):
                nodes += [_from_item(item) for item in page["Items"]]
        except (ClientError, BotoCoreError) as error:
            raise StoreUnavailable(f"the nodes cannot be read: {error_code(error)}") from error
        return nodes

    def put(self, node: Node) -> None:
        """Add or replace one node."""
        item = {"pk": {"S": _PARTITION}, "sk": {"S": node.aet}, "node": {"S": _to_json(node)}}
        try:
            self._client.put_item(TableName=self._table, Item=item)
        except (ClientError, BotoCoreError) as error:
            raise StoreUnavailable(f"the node was not stored: {error_code(error)}") from error

    def remove(self, aet: str) -> None:
        """Remove one node; removing one that is not there is no error."""
        key = {"pk": {"S": _PARTITION}, "sk": {"S": aet}}
        try:
            self._client.delete_item(TableName=self._table, Key=key)
        except (ClientError, BotoCoreError) as error:
            raise StoreUnavailable(f"the node was not removed: {error_code(error)}") from error

    def replace_all(self, nodes: list[Node]) -> None:
        """Make the table's nodes equal to `nodes`: additions first, then removals."""
        present = {node.aet: node for node in self.all()}
        for node in nodes:
            if present.pop(node.aet, None) != node:
                self.put(node)
        for aet in present:
            self.remove(aet)


def _to_json(node: Node) -> str:
    fields = {
        "address": node.address,
        "port": node.port,
        "may": sorted(node.may),
        "associations": node.associations,
        "tls": node.tls,
    }
    return json.dumps(fields, sort_keys=True)


def _from_item(item: Mapping[str, Any]) -> Node:
    fields = json.loads(item["node"]["S"])
    return Node(
        item["sk"]["S"],
        fields["address"],
        fields["port"],
        frozenset(fields["may"]),
        # Nodes loaded by an earlier version do not say.
        fields.get("associations", _ONE_PER_RETRIEVAL),
        fields.get("tls", _PLAIN),
    )
