"""The command line. Parses first and imports what a command needs afterwards, so that ``rba --help`` answers at once."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ops.arguments import Overrides, Recipe
from ops.dataset import app as dataset_app
from ops.keys import app as keys_app
from ops.monitoring.command import app as monitoring_app
from ops.recipes import app as config_app

if TYPE_CHECKING:
    from rich.console import Console

app = typer.Typer(
    name="rba",
    help="Align a speech language model to a text teacher, online and on many machines.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.add_typer(config_app, name="config")
app.add_typer(dataset_app, name="dataset")
app.add_typer(keys_app, name="keys")
app.add_typer(monitoring_app, name="monitoring")

RunArgument = Annotated[str, typer.Argument(metavar="RUN", help="The run's folder, or its name under runs/.")]


@app.command()
def launch(
    config: Recipe,
    override: Overrides = None,
    run_dir: Annotated[Path | None, typer.Option(help="Folder of the run; by default a new one under run.directory.")] = None,
    detach: Annotated[bool, typer.Option("--detach", help="Go on in the background.")] = False,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run of that folder from its last checkpoint.")] = False,
    salvage: Annotated[bool, typer.Option("--salvage", help="With --resume: give up what is damaged in the journal.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would be started, and start nothing.")] = False,
) -> None:
    """Carry out a run: start its processes, watch them, evaluate before and after, and write a report."""
    overrides = override or []
    if dry_run:
        _show_plan(config, overrides)
    elif detach:
        from ops.detach import launch_detached

        raise typer.Exit(launch_detached(config, overrides, run_dir, _console(), resume=resume, salvage=salvage))
    else:
        from ops.launch import launch as carry_out
        from ops.live import Lossy

        raise typer.Exit(carry_out(config, overrides, run_dir, _console(file=Lossy(sys.stdout)), resume=resume, salvage=salvage))


@app.command()
def status(
    run: RunArgument,
    watch: Annotated[bool, typer.Option("--watch", help="Follow it until it ends.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    prometheus: Annotated[str | None, typer.Option(metavar="URL", help="Tell the alerts that fire in this Prometheus too.")] = None,
) -> None:
    """Tell how a run is doing. The exit code is not 0 when it is unhealthy."""
    from ops import rundir, watching

    raise typer.Exit(watching.show(rundir.find(run), _console(), watch=watch, as_json=as_json, prometheus=prometheus))


@app.command()
def stop(
    run: RunArgument,
    wait: Annotated[bool, typer.Option(help="Wait until it has ended.")] = True,
) -> None:
    """Finish the groups that are sampled, and the step; write a checkpoint and end. A second `rba stop` ends at once."""
    from ops import rundir, watching

    raise typer.Exit(watching.stop(rundir.find(run), _console(), wait=wait))


@app.command()
def scale(
    run: RunArgument,
    actors: Annotated[int | None, typer.Option(min=1, help="Rollout actors that there are to be, spares not counted.")] = None,
    rewards: Annotated[int | None, typer.Option(min=1, help="Reward servers that there are to be.")] = None,
    wait: Annotated[bool, typer.Option("--wait", help="Wait until they run.")] = False,
) -> None:
    """Add or remove rollout actors and reward servers while the run goes on; actors that leave give their groups back."""
    from ops import rundir, watching

    wanted = {name: count for name, count in (("actors", actors), ("rewards", rewards)) if count is not None}
    raise typer.Exit(watching.scale(rundir.find(run), _console(), wanted, wait=wait))


@app.command()
def report(run: RunArgument) -> None:
    """Build a run's report page again from what it left behind."""
    from ops import report as page
    from ops import rundir

    typer.echo(page.write(rundir.find(run)))


@app.command()
def export(
    run: RunArgument,
    out: Annotated[Path, typer.Option(help="The new folder.")],
    step: Annotated[int | None, typer.Option(help="Learner step of the checkpoint; by default the last whole one.")] = None,
    best: Annotated[bool, typer.Option("--best", help="The best one by validation.")] = False,
) -> None:
    """Copy a checkpoint of a run to a folder that transformers and vLLM load."""
    from ops import export as exporting
    from ops import rundir

    for note in exporting.export(rundir.find(run), step, out, best=best):
        typer.echo(note)


@app.command()
def replay(
    run: RunArgument,
    step: Annotated[int | None, typer.Option("--from", help="Learner step of the checkpoint; by default the first one possible.")] = None,
    salvage: Annotated[bool, typer.Option("--salvage", help="Give up what is damaged in the journal.")] = False,
) -> None:
    """Take a run's steps again from a checkpoint and its journal, without actors, and compare the weights with those it published."""
    from ops import replay as replaying
    from ops import rundir

    with _console().status("replaying", spinner="dots"):
        found = replaying.replay(rundir.find(run), step, salvage=salvage)
    typer.echo(found.told())
    raise typer.Exit(1 if found.differing else 0)


@app.command()
def synthesize(
    config: Recipe,
    override: Overrides = None,
    stage: Annotated[list[str] | None, typer.Option("--stage", help="Carry out this stage alone; may be given several times.")] = None,
    everything: Annotated[bool, typer.Option("--all", help="Carry out every stage, which is the default.")] = False,
    redo: Annotated[
        str | None, typer.Option(metavar="STAGE", help="First throw away what this stage and those behind it have made.")
    ] = None,
    describe: Annotated[bool, typer.Option("--describe", help="Show topics, difficulties and rejections of what is there.")] = False,
    html: Annotated[Path | None, typer.Option(help="With --describe: write it as a page too.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Make a data set from a teacher and a speech synthesiser. What was finished stays: called again, it goes on."""
    from configs import loader
    from configs.synthesis import SynthesisConfig
    from ops import synthesize as making
    from ops.assets import resolve_synthesis

    loaded = loader.load(config, override or [], schema=SynthesisConfig)
    if describe:
        making.describe(loaded, _console(), html, as_json=as_json)
    else:
        resolved = resolve_synthesis(loaded, typer.echo)
        stages = [] if everything else stage or []
        making.carry_out(resolved, stages, _console(), redo=redo, as_json=as_json, written=loaded)


@app.command("serve-rewards")
def serve_rewards(
    config: Annotated[
        str | None, typer.Argument(metavar="[CONFIG]", help="A recipe, or a YAML file with its section rewards alone.")
    ] = None,
    override: Overrides = None,
    scorer: Annotated[str | None, typer.Option(help="seqcls, armorm, bleu, chrf, qa, judge, python or combination.")] = None,
    model: Annotated[str | None, typer.Option(help="Checkpoint of the scorer: a folder, a Hub name or SCHEME:NAME.")] = None,
    bind: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="0 takes a free one.")] = 0,
    batch_items: Annotated[int | None, typer.Option(help="Most items in one forward pass.")] = None,
    batch_tokens: Annotated[int | None, typer.Option(help="Most tokens in one forward pass, padding included.")] = None,
    timeout_s: Annotated[float | None, typer.Option(help="Seconds that a request may wait; one that would wait longer is refused.")] = None,
    cpu_threads: Annotated[int | None, typer.Option(help="Threads of the model on a CPU.")] = None,
    token_file: Annotated[str | None, typer.Option(help="File with the token that clients send; else RBA_REWARDS_TOKEN.")] = None,
    insecure: Annotated[bool, typer.Option("--insecure", help="Allow an address off the loopback interface without a token.")] = False,
) -> None:
    """Serve rewards over HTTP until Ctrl-C; runs use it through rewards.urls. What a scorer needs is set by -o rewards.KEY=VALUE."""
    from ops.serving import rewards_of

    options = {"scorer": scorer, "model": model, "batch_items": batch_items, "batch_tokens": batch_tokens, "timeout_s": timeout_s}
    options |= {"cpu_threads": cpu_threads, "token_file": token_file}
    section = rewards_of(config, options, override or [], typer.echo)
    from actors.rewards.server import serve

    serve(section, bind, port, insecure=insecure)


@app.command()
def bench(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Such as learner.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Measure rba beside its peers on this machine, side by side in one run. Takes minutes."""
    import json

    from ops.bench import measure

    rows = measure(name)
    if as_json:
        typer.echo(json.dumps({"bench": name, "rows": rows}))
        return
    if not rows:
        return  # it has said why
    from rich.table import Table

    shown = Table("case", "unit", "ours", "peer", "theirs", "ratio", "target", box=None, pad_edge=False)
    for row in rows:
        figures = [f"{row[key]:.4g}" for key in ("ours", "theirs", "ratio")]
        shown.add_row(row["case"], row["unit"], figures[0], row["peer"], figures[1], figures[2], str(row["target"] or ""))
    _console().print(shown)


@app.command()
def doctor() -> None:
    """Check whether this installation and this machine are fit to run."""
    from rich.text import Text

    from ops.doctor import examine

    findings = examine()
    console = _console()
    for finding in findings:
        mark = Text("ok  ", style="green") if finding.ok else Text("BAD ", style="bold red")
        console.print(mark + Text(f"{finding.what:24} {finding.detail}") + Text("" if finding.ok else f"  → {finding.fix}"))
    if not all(finding.ok for finding in findings):
        raise typer.Exit(1)


@app.callback(invoke_without_command=True)
def root(version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False) -> None:
    """Options of the program itself."""
    if version:
        from importlib.metadata import version as installed

        typer.echo(installed("rba"))
        raise typer.Exit


def main() -> None:
    """Entry point. 2 for the user's mistakes, 1 for the system's; neither with a traceback."""
    try:
        app()
    except KeyboardInterrupt:
        sys.exit(130)
    except Exception as error:  # noqa: BLE001 - the one handler: what is not the user's mistake is explained and logged
        sys.exit(_explain(error))


def _explain(error: Exception) -> int:
    from protocol.errors import RbaError, UserError

    if isinstance(error, UserError):
        typer.echo(f"error: {error}", err=True)
        return 2
    if isinstance(error, RbaError):
        typer.echo(f"error: {error}", err=True)
        return 1
    log = _keep_traceback(error)
    typer.echo(
        f"error: {type(error).__name__}: {error}\nThis is a fault of rba or of a library below it; the traceback is in {log}", err=True
    )
    return 1


def _keep_traceback(error: Exception) -> Path:
    import tempfile
    import traceback

    with tempfile.NamedTemporaryFile("w", prefix="rba-error-", suffix=".log", delete=False) as file:
        file.writelines(traceback.format_exception(error))
    return Path(file.name)


def _show_plan(config: str, overrides: list[str]) -> None:
    from configs import loader
    from ops import plan

    planned = plan.make(loader.load(config, overrides), plan.Machine.here())
    for heading, rows in plan.describe(planned):
        typer.secho(heading, bold=True)
        for name, value in rows:
            typer.echo(f"  {name:15} {value}")
    for warning in planned.warnings:
        typer.secho(f"! {warning}", fg="yellow")
    typer.echo("nothing was started")


def _console(**options: Any) -> Console:
    from rich.console import Console

    return Console(**options)


if __name__ == "__main__":
    main()
