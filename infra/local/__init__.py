"""The offline stand-in: the whole node on one machine, from the template it is deployed with.

`python -m infra.local` starts moto as AWS, creates the template's resources in it, runs the
template's functions on their own event sources and starts the gateway, until Ctrl-C.

    template.py          template.yaml, transformed and resolved
    cloud.py             its buckets, queues and tables, created in moto
    functions.py         its functions: code, environment, event sources
    deployment.py        the three in turn, as `sam deploy` does it for real
    event_sources.py     how events come to a function
    function_worker.py   one function and one event source of it, in a process of its own
    moto_server.py       moto, made safe and quick enough for real work
    moto_queues.py       its queues, likewise
    tether.py            ties the life of a child to the life of the node
    children.py          starts the processes, and tells when they are ready and when they end
    node.py              the life cycle of it all

moto keeps nothing: what was stored is gone when the node ends.
"""

from pathlib import Path
from typing import Final

#: The folder that holds template.yaml; paths in the template start here.
ROOT: Final = Path(__file__).resolve().parents[2]
REGION: Final = "us-east-1"
