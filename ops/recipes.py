"""`rba config`: what a recipe says, and what one can say."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from ops.arguments import Overrides, Recipe

if TYPE_CHECKING:
    from configs.section import Section

app = typer.Typer(help="Show a configuration, or what can be configured.", no_args_is_help=True)
Synthesis = Annotated[bool, typer.Option("--synthesis", help="That of `rba synthesize` instead of `rba launch`.")]


@app.command("show")
def show(config: Recipe, override: Overrides = None, synthesis: Synthesis = False) -> None:
    """Print the whole configuration: the recipe, the overrides and every default."""
    from configs import loader

    typer.echo(loader.to_yaml(loader.load(config, override or [], schema=_model(synthesis=synthesis))), nl=False)


@app.command("schema")
def schema(as_json: Annotated[bool, typer.Option("--json", help="Print it as JSON schema.")] = False, synthesis: Synthesis = False) -> None:
    """Describe every key: its type, its default and what it means."""
    import json

    from configs.keys import key_docs

    model = _model(synthesis=synthesis)
    if as_json:
        typer.echo(json.dumps(model.model_json_schema(), indent=2))
        return
    for key in key_docs(model):
        if key.type == "section":
            typer.echo(f"\n{key.path}: {key.doc}")
        else:
            default = "required" if key.required else f"default {json.dumps(key.default, default=str)}"
            typer.echo(f"  {key.path} ({key.type}; {default})" + (f"\n      {key.doc}" if key.doc else ""))


def _model(*, synthesis: bool) -> type[Section]:
    from configs.schema import RunConfig
    from configs.synthesis import SynthesisConfig

    return SynthesisConfig if synthesis else RunConfig
