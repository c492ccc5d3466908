"""`rba serve-rewards`: the scorer of a reward server of its own, from options, overrides and perhaps a run's recipe."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import yaml

from configs import loader
from configs.sampling import RewardsSection
from configs.serving import ServingConfig
from ops.assets import Progress, resolve_rewards
from protocol.errors import UserError


def rewards_of(recipe: str | None, options: Mapping[str, object], overrides: Sequence[str], progress: Progress) -> RewardsSection:
    """The section `rewards` of the recipe: of a run, or a file with that section alone.

    On top of it go `options` (``--key value``; None: not given), then `overrides`. Every checkpoint in it is a path. Raises `UserError` for
    mistakes, told as they were typed.
    """
    typed = {f"rewards.{key}={value}": f"--{key.replace('_', '-')} {value}" for key, value in options.items() if value is not None}
    try:
        if recipe is None or _is_rewards_alone(recipe):
            section = loader.load(recipe, [*typed, *overrides], schema=ServingConfig).rewards
        else:
            section = loader.load(recipe, [*typed, *overrides]).rewards
            section.require()
    except UserError as error:
        where = error.where
        for override, option in typed.items():
            where = where.replace(f"-o {override}", option)
        raise UserError(error.what, where=where, fix=error.fix) from None
    except ValueError as error:
        what, _, fix = str(error).partition("; ")
        raise UserError(what, where=str(recipe), fix=fix) from None
    return resolve_rewards(section, progress)


def _is_rewards_alone(recipe: str) -> bool:
    try:
        tree = yaml.safe_load(loader.locate(recipe).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError):
        return False  # the loader tells what is wrong
    return isinstance(tree, dict) and tree.keys() <= {"rewards"}
