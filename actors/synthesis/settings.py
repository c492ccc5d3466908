"""What each stage has been made with, kept beside its blocks: one that goes on with other settings would mix two data sets."""

from __future__ import annotations

from pathlib import Path

import yaml
from pydantic import ValidationError

from actors.synthesis.shelf import Shelf
from configs.synthesis import SynthesisConfig
from protocol.dataset.disk import Appearing
from protocol.errors import UserError

FILE = "settings.yaml"
KEYS = {
    "instructions": ("seed", "block_groups", "teacher", "instructions", "corpus"),
    "responses": ("teacher", "responses"),
    "filter": ("filter",),
    "tags": ("tags",),
    "splits": ("splits",),
    "speech": ("speech",),
    "dataset": ("name",),
}
"""What a stage depends on, beside what the stage before has made of its own."""
GROWING = ("instructions.count",)
"""What may change all the same: more of the same only adds blocks."""


def check(stage: str, config: SynthesisConfig, shelf: Shelf) -> None:
    """Raises `UserError` when the stage has committed blocks with other settings. What has committed none may begin with any."""
    path = shelf.folder / FILE
    if shelf.committed and path.is_file():
        for key, before, after in _read(path).fixed_differences(config):
            if _below(key, KEYS[stage]) and not _below(key, GROWING):
                raise UserError(
                    f"stage {stage} was begun with {key}={before!r} and is now called with {after!r}",
                    where=str(path),
                    fix=f"set {key} back, give the data set another name, or make this stage and those behind it again (--redo {stage})",
                )


def note(config: SynthesisConfig, shelf: Shelf) -> None:
    """Write down the settings of a stage that begins or goes on. Raises `UserError` where they cannot be written."""
    with Appearing(shelf.folder / FILE) as file:
        file.write(yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True).encode())


def _read(path: Path) -> SynthesisConfig:
    try:
        return SynthesisConfig.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
    except (OSError, UnicodeDecodeError, yaml.YAMLError, ValidationError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(
            f"the settings of the stage cannot be read: {reason}", where=str(path), fix="take the file away to go on"
        ) from error


def _below(key: str, sections: tuple[str, ...]) -> bool:
    return any(key == section or key.startswith(f"{section}.") for section in sections)
