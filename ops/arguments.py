"""Arguments that several commands have."""

from __future__ import annotations

from typing import Annotated

import typer

Recipe = Annotated[
    str, typer.Argument(metavar="CONFIG", help="A YAML file, or the name of a recipe that ships with rba, such as quickstart.")
]
Overrides = Annotated[list[str] | None, typer.Option("-o", "--override", metavar="KEY=VALUE", help="Set a key, such as learner.steps=10.")]
