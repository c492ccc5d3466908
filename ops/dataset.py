"""`rba dataset`: look at data sets of instruction groups."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ops import formats

if TYPE_CHECKING:
    from protocol.dataset.inspection import Inspection, Progress

app = typer.Typer(help="Check and show data sets of instruction groups, and take them from and to other formats.", no_args_is_help=True)
formats.add_to(app)

DataSetPath = Annotated[str, typer.Argument(metavar="PATH", help="A manifest (.jsonl), or a folder of them; a URL such as s3://… too.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.command()
def check(
    path: DataSetPath,
    audio: Annotated[bool, typer.Option("--audio", help="Also read and decode every recording.")] = False,
    max_audio_s: Annotated[float, typer.Option(help="Longer audio is damage, as in data.max_audio_s.")] = 30.0,
    as_json: AsJson = False,
) -> None:
    """Look for damage of every kind and name its file and line. The exit code is 1 when there is any."""
    import json

    from protocol.dataset import inspection

    with _progress(f"checking {path}") as told:
        found = inspection.inspect(path, hear=audio, max_audio_s=max_audio_s, progress=told)
    if as_json:
        typer.echo(json.dumps(inspection.as_json(found)))
    else:
        _tell(found)
    raise typer.Exit(1 if found.findings else 0)


@app.command()
def show(
    path: DataSetPath,
    html: Annotated[Path | None, typer.Option(metavar="FILE", help="Write one page with groups to listen to.")] = None,
    as_json: AsJson = False,
) -> None:
    """Tell what a data set is made of: counts, hours, topics, languages, voices, words."""
    import json

    from ops.showing import Shown, tables
    from protocol.dataset.figures import as_json as plain

    with _progress(f"reading {path}") as told:
        shown = Shown(path, told)
    if html is not None:
        shown.write(html)
    if as_json:
        typer.echo(json.dumps({"path": path, "manifests": [plain(each) for each in shown.figures]}))
        return
    from rich.console import Console

    console = Console()
    for table in tables(shown):
        console.print(table)
        console.print()
    if html is not None:
        typer.echo(f"the page is {html}")


def _tell(found: Inspection) -> None:
    for finding in found.findings:
        typer.echo(str(finding))
    for one in found.manifests:
        state = ", still growing" if one.growing else ""
        typer.echo(f"{one.name}: {one.groups} groups, {one.utterances} utterances, {one.audio} of them spoken{state}")
    depth = "every recording was decoded" if found.heard else "recordings were not decoded; --audio does"
    damage = f"{len(found.findings)} findings" if found.findings else "no damage"
    typer.echo(f"{damage}; {depth}")


@contextmanager
def _progress(title: str) -> Iterator[Progress]:
    """A function that moves a bar, where there is a terminal to show it."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    columns = TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn()
    with Progress(*columns, console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty()) as shown:
        task = shown.add_task(title)
        yield lambda name, done, total: shown.update(task, description=name, completed=done, total=total)
