"""`rba monitoring`: what Prometheus and Grafana need to watch runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(help="Watch runs with Prometheus and Grafana.", no_args_is_help=True)


@app.callback()
def group() -> None:
    """Watch runs with Prometheus and Grafana."""


@app.command()
def write(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Where to; files of these names are replaced.")] = Path("monitoring"),
    control_port: Annotated[
        list[int] | None, typer.Option(min=1, max=65535, help="network.control_port of a run; 9400 by default, may be given several times.")
    ] = None,
    runbook: Annotated[str, typer.Option(metavar="URL", help="Where alerts find docs/runbook.md.")] = "docs/runbook.md",
    docs: Annotated[Path | None, typer.Option(metavar="DIR", help="Write metrics.md there too.")] = None,
) -> None:
    """Write configuration, alert rules, dashboard and compose.yaml for runs on this machine."""
    from ops.monitoring import files
    from ops.monitoring.deployment import CONTROL_PORT
    from ops.monitoring.pages import metrics_page
    from protocol.errors import UserError

    ports = control_port or [CONTROL_PORT]
    try:
        paths = files.write(folder, files.deployed(ports, runbook))
        paths += files.write(docs, {"metrics.md": metrics_page()}) if docs is not None else []
    except OSError as error:
        raise UserError(f"it cannot be written: {error}", where=str(folder), fix="name a folder that can be written to") from error
    for path in paths:
        typer.echo(path)
    typer.echo(f"next: docker compose -f {folder / 'compose.yaml'} up -d, and: rba launch … -o network.control_port={ports[0]}")
