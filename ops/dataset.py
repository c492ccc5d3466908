"""`rba dataset`: commands about data sets."""

from __future__ import annotations

import typer

from ops import formats

app = typer.Typer(help="Data sets: other formats in and out.", no_args_is_help=True)
formats.add_to(app)
