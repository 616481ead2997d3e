"""`lenticular rebuild-index`, `verify` and `transcode`: over everything that is stored."""

import itertools
from collections.abc import Mapping
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from os import environ
from pathlib import Path
from typing import Any, Final

import click

from lenticular import procedures
from lenticular.aws import sqs_client
from lenticular.errors import OperatorError, StoreUnavailable
from lenticular.indexing import rebuild
from lenticular.settings import IndexSettings
from lenticular.transcoding import originals_without_form
from lenticular.transcoding_queue import ask_for_transcoding
from lenticular.verifying import IN_QUARANTINE, Finding, Kind, Report, Verifier

from . import printing, stores
from .exit_codes import NotAllIsWell
from .pace import progress_bar
from .state import State, state_option

_KEYS_AT_A_TIME: Final = 1000


@click.command("rebuild-index")
@click.option("--yes", is_flag=True, help="Also where most of the index would go.")
def rebuild_index(*, yes: bool) -> None:
    """Rebuild the index from the bucket alone; safe to run on a node in use, and to run again.

    An index most of whose studies have nothing in the bucket is another bucket's, so it is left as
    it is unless --yes.
    """
    index, archive = stores.index(), stores.archive()
    indexed = index.every_study_uid(of_procedures=False)
    gone = len(indexed - {study for study, _ in archive.studies()})
    if 2 * gone > len(indexed) and not yes:
        raise OperatorError(
            f"{gone} of the {len(indexed)} studies in {index.table} have nothing in "
            f"{archive.bucket}, and would be taken out of the index: are table and bucket of one "
            "stack? If they are, say --yes"
        )
    with progress_bar(0, "objects") as bar:
        read = rebuild(archive, index, lambda objects: bar.update(objects - bar.pos))
    steps = procedures.rebuild(archive, index)
    click.echo(f"{read} objects and {steps} procedures read, the index holds what the bucket holds")


@click.command()
def transcode() -> None:
    """Have what is stored already transcoded, as LENTICULAR_TRANSCODE_QUEUE's function is told.

    Asks for each original that has neither a form nor a reason why not; safe to run again.
    """
    settings = IndexSettings.from_environment(environ)
    asked, failed = 0, 0
    keys = originals_without_form(stores.archive())
    while some := list(itertools.islice(keys, _KEYS_AT_A_TIME)):
        failed += len(ask_for_transcoding(sqs_client(), settings.transcode_queue, some))
        asked += len(some)
    if failed:
        raise StoreUnavailable(f"{failed} of {asked} originals were not asked for: run it again")
    click.echo(f"{asked} originals are to be transcoded")


@click.command()
@click.option("--quick", is_flag=True, help="Compare what is listed, and read no object.")
@click.option(
    "--sample",
    metavar="PERCENT",
    type=click.FloatRange(0, 100, min_open=True),
    help="Read the objects of so many studies in a hundred; compare all others as --quick does.",
)
@click.option(
    "--seed",
    help="Which studies a --sample has: any word, the same for the same ones; default the day.",
)
@click.option("--no-repair", is_flag=True, help="Only report.")
@click.option(
    "--parallel",
    type=click.IntRange(1, 256),
    default=16,
    show_default=True,
    help="Objects read at a time.",
)
@click.option(
    "--grace-minutes",
    type=click.IntRange(min=0),
    default=15,
    show_default=True,
    help="What came so lately may still be on its way to the index.",
)
@state_option
@printing.as_json
def verify(  # noqa: PLR0913 - options of a command
    *,
    quick: bool,
    sample: float | None,
    seed: str | None,
    no_repair: bool,
    parallel: int,
    grace_minutes: int,
    state_file: Path | None,
    as_json: bool,
) -> None:
    """Hold the bucket against the index, and every object against its SHA-256.

    The index gets what it lacks; whatever else is wrong is printed. Any finding, repaired or not,
    ends with exit status 4. Safe on a node in use. Reads every byte unless --quick or --sample,
    which S3 charges for in its colder classes.
    """
    if quick and sample is not None:
        raise OperatorError("--quick reads nothing, so there is nothing to --sample")
    if seed is not None and sample is None:
        raise OperatorError("--seed says which studies a --sample has: give both")
    of_day = f"{datetime.now(UTC):%Y-%m-%d}"
    verifier = Verifier(
        stores.archive(),
        stores.index(),
        reads=not quick,
        sample=1.0 if sample is None else sample / 100,
        seed=of_day if seed is None else seed,
        repairs=not no_repair,
        parallel=parallel,
        grace=timedelta(minutes=grace_minutes),
    )
    asked: dict[str, object] = {"verify": verifier.archive.bucket, "quick": quick}
    if sample is not None:
        # Without a seed, what is left for the next day is sampled by that day.
        asked |= {"sample": sample, "seed": seed}
    total = Report("")
    with State(state_file, asked) as state, progress_bar(0, "studies") as bar:
        for facts in state.done.values():
            total.objects += facts["objects"]
            total.findings += [_finding(each) for each in facts["findings"]]
        studies = sum(name != IN_QUARANTINE for name in state.done)
        for report in verifier.run(state.done):
            found = [asdict(each) for each in report.findings]
            for each in found:
                click.echo(printing.to_json(each) if as_json else _line(each))
            # One that is not all well is looked at again when the command is.
            if not report.recent and all(each.repaired for each in report.findings):
                state.note(report.study_instance_uid, objects=report.objects, findings=found)
            total.objects += report.objects
            total.bytes_read += report.bytes_read
            total.recent += report.recent
            total.findings += report.findings
            studies += report.study_instance_uid != IN_QUARANTINE
            bar.update(1)
        # Whoever uses the same file next month means all of it.
        state.forget()
    summary = {
        "studies": studies,
        "objects": total.objects,
        "bytes_read": total.bytes_read,
        **({} if sample is None else {"seed": verifier.seed}),
        "not_yet_indexed": total.recent,
        "findings": len(total.findings),
        "repaired": sum(each.repaired for each in total.findings),
    }
    printing.print_facts(summary, as_json=as_json)
    if total.findings:
        raise NotAllIsWell(f"{summary['findings']} findings, {summary['repaired']} repaired")


def _line(finding: Mapping[str, object]) -> str:
    repaired = " (repaired)" if finding["repaired"] else ""
    return f"{finding['object_key']}: {finding['kind']}{repaired}"


def _finding(facts: Mapping[str, Any]) -> Finding:
    return Finding(Kind(facts["kind"]), facts["object_key"], facts["repaired"])
