"""`rba dataset import` and `rba dataset export`: other formats into rba's own, and out of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar, get_args

import typer

from actors.datasets.names import GroupBy, Reason, Source, Target
from protocol.errors import UserError

if TYPE_CHECKING:
    from rich.progress import Progress

    from ops.rundir import RunDir

Item = TypeVar("Item")


def take_in(
    source: Annotated[str, typer.Argument(metavar="SOURCE", help="A file or folder, or the name of a data set on the Hugging Face Hub.")],
    out: Annotated[str, typer.Argument(metavar="OUT", help="The new folder, or its URL.")],
    kind: Annotated[Source | None, typer.Option("--format", help="By default the one that the path shows.")] = None,
    column: Annotated[
        list[str] | None, typer.Option("-c", "--column", metavar="ROLE=NAME", help="Which column or key holds what; a.b is b in a.")
    ] = None,
    constant: Annotated[list[str] | None, typer.Option("--set", metavar="ROLE=TEXT", help="The same for every record.")] = None,
    group_by: Annotated[GroupBy, typer.Option(help="id: one group by group id; text: one group by the same texts.")] = "id",
    drop: Annotated[list[str] | None, typer.Option(metavar="long|empty|damaged", help="Leave such records out, and count them.")] = None,
    max_audio_s: Annotated[float, typer.Option(min=0.1, help="Longer audio is refused.")] = 30.0,
    split: Annotated[str | None, typer.Option(help="hf: which split.")] = None,
    subset: Annotated[str | None, typer.Option(help="hf: which configuration of a data set on the Hub.")] = None,
) -> None:
    """Read a data set of another format into a new one of rba's: mono 16 kHz FLAC and a manifest.

    Roles are audio, instruction, reference, prompt, speaker, group, topic, language and answers.
    """
    from actors.datasets import formats
    from actors.datasets.draft import place_for
    from actors.datasets.fields import Fields
    from actors.datasets.importer import Imported, Options
    from actors.datasets.importer import take_in as carry_out

    options = Options(Fields.parse(column or [], constant or []), group_by, _reasons(drop or []), max_audio_s)
    records = formats.read(source, kind or formats.guess(source), options.fields, split, subset)
    with _bar() as bar:
        task = bar.add_task("utterances", total=None)

        def progress(done: Imported) -> None:
            bar.update(task, completed=done.utterances)

        done = carry_out(records, place_for(out), options, progress)
    typer.echo(f"{out}: {done.told()}")


def _reasons(drop: list[str]) -> set[Reason]:
    known: tuple[Reason, ...] = get_args(Reason)
    if unknown := set(drop) - set(known):
        fix = f"use one of: {', '.join(known)}"
        raise UserError(f"--drop {unknown.pop()} is no reason", where="the command line", fix=fix)
    return {reason for reason in known if reason in drop}


def write_out(
    source: Annotated[
        str, typer.Argument(metavar="PATH|RUN", help="A manifest or a folder of them, or its URL; a run, for its preference pairs.")
    ],
    out: Annotated[str, typer.Argument(metavar="OUT", help="The new folder, or its URL.")],
    kind: Annotated[Target, typer.Option("--format")],
    split: Annotated[str | None, typer.Option(help="hf and voicebench: name of the split; by default the manifest's.")] = None,
    open_ended: Annotated[bool, typer.Option("--open-ended", help="voicebench: leave the references out.")] = False,
    salvage: Annotated[bool, typer.Option("--salvage", help="Of a run: leave out what is damaged in its journal.")] = False,
) -> None:
    """Write a data set in another format; of a run, its preference pairs for ms-swift."""
    from actors.datasets.draft import draft, place_for

    manifests = _manifests(source)
    if len(manifests) > 1 and (split is not None or kind in {"swift", "shar"}):
        names = ", ".join(Path(manifest).name for manifest in manifests)
        raise UserError(f"several manifests: {names}", where=source, fix="name one of them")
    place = place_for(out)
    with draft(place) as folder:
        if manifests:
            counts, note = _export(manifests, folder, place, kind, split, open_ended=open_ended), ""
        else:
            counts, note = _export_pairs(_run(source, kind), folder, place, salvage=salvage)
    typer.echo(f"{out}: {', '.join(f'{count} {what}' for what, count in counts.items())}{note}")


def _manifests(source: str) -> list[str]:
    """The manifests that are meant, as paths or URLs; none where it must be a run."""
    from protocol.dataset.inspection import manifests_of

    path = Path(source)
    is_run = (path / "events.jsonl").exists() or (path / "control.json").exists()
    if "://" not in source and (is_run or not path.exists()):
        return []
    place, names = manifests_of(source)
    return [place.where(name) for name in names]


def _run(name: str, kind: Target) -> RunDir:
    from ops import rundir

    run = rundir.find(name)
    if kind != "swift":
        raise UserError(f"{kind} has no place for preference pairs", where=str(run.path), fix="export a run with --format swift")
    return run


def _export(manifests: list[str], folder: Path, out: Path | str, kind: Target, split: str | None, *, open_ended: bool) -> Counter[str]:
    from actors.datasets.examples import examples
    from actors.datasets.writers import huggingface, shar, swift, voicebench
    from protocol.dataset import DataSet

    counts: Counter[str] = Counter()
    for manifest in manifests:
        data = DataSet.open(manifest)
        stem = Path(manifest).stem
        name = split or ("train" if stem == "manifest" else stem)
        with _bar() as bar:
            each = bar.track(examples(data), total=sum(len(group.utterances) for group in data.groups), description=name)
            if kind == "swift":
                counts.update(swift.write(each, folder, out))
            elif kind == "shar":
                counts.update(shar.write(each, folder))
            elif kind == "voicebench":
                counts.update(voicebench.write(each, folder, name, open_ended=open_ended))
            elif kind == "hf":
                counts.update(huggingface.write(each, folder, name))
            else:
                counts.update(huggingface.save(each, folder if len(manifests) == 1 else folder / name, name))
    if kind == "hf-disk" and len(manifests) > 1:
        huggingface.describe_splits(folder, [Path(manifest).stem for manifest in manifests])
    return counts


def _export_pairs(run: RunDir, folder: Path, out: Path | str, *, salvage: bool) -> tuple[Counter[str], str]:
    from actors.datasets.writers import swift
    from ops.preferences import Preferences

    preferences = Preferences.open(run, salvage=salvage)
    with _bar() as bar:
        counts = swift.write_preferences(_tracked(bar, preferences), folder, out)
    if not counts["lines"]:
        raise UserError("the journal has no preference pair", where=str(run.path), fix="name a run that has formed pairs")
    return counts, "" if preferences.complete else "; older pairs than the first checkpoint's are no longer in the journal"


def _tracked(bar: Progress, items: Iterable[Item]) -> Iterator[Item]:
    return iter(bar.track(items, total=None, description="pairs"))


@contextmanager
def _bar() -> Iterator[Any]:
    """On standard error; nothing where that is no terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal, transient=True) as progress:
        yield progress


def add_to(app: typer.Typer) -> None:
    """Put both commands into the application `app`."""
    app.command("import")(take_in)
    app.command("export")(write_out)
