"""C-STORE when S3 takes its time: does its latency cap what many associations get through?

An association waits for the PUT of each instance before it hears 0000, so k of them cannot do more
than k / (latency + transfer), where transfer is what an instance takes on one association with no
latency at all. How near the gateway comes is the figure.

With a spool, associations wait for a disk instead: the figure is how many times more an association
gets through. What it gets through S3 must take as well, if later, which is a figure of its own.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from .receivers import OURS, SPOOLING, Site
from .storing import Load, Sample, sample


@dataclass(frozen=True, slots=True)
class SlowSample:
    """One load in one round, and the most that latency lets through if it is waited for."""

    sample: Sample
    bound: float | None


def sample_slow_puts(
    loads: Sequence[Load], rounds: int, site: Site, data_set: Path, put_seconds: float
) -> Iterator[SlowSample]:
    """Measure the gateway under every load in every round, in both custody modes.

    Each round of mode `s3` stands beside one without latency.
    """
    at_once = Load(loads[0].instances, 1)
    for turn in range(rounds):
        (fast,) = sample([OURS], [at_once], 1, site, data_set)
        slow_site = replace(site, put_seconds=put_seconds)
        for slow in sample([OURS], loads, 1, slow_site, data_set):
            bound = slow.associations / (put_seconds + 1 / fast.instances_per_second)
            yield SlowSample(replace(slow, turn=turn), bound)
        for spooled in sample([SPOOLING], loads, 1, slow_site, data_set):
            yield SlowSample(replace(spooled, turn=turn), None)
