"""What the quickstart provides by name: the entry point `quickstart` of the group `rba.assets`."""

from __future__ import annotations

from pathlib import Path

from protocol.errors import UserError
from quickstart.tasks import Task
from quickstart.world import SPLITS, Split

CHECKPOINTS = Path(__file__).parent / "checkpoints"
MODELS = ("speechlm", "teacher", "reward_model")
VOICES = "voices"
"""The bank of the training voices."""
SETS: dict[str, tuple[Split, Task]] = {split: (split, "answer") for split in SPLITS} | {
    "test-s2tt": ("test", "s2tt"),
    "test-qa": ("test", "qa"),
}


def provide(name: str, progress: bool = True) -> Path:
    """The checkpoint folder, manifest or bank of voices called `name`; a data set is synthesised on first use (under a minute).

    Raises `UserError` for an unknown name, or where a part of the installation is missing.
    """
    if name in MODELS:
        folder = CHECKPOINTS / name
        if not (folder / "model.safetensors").is_file():
            raise UserError(f"the checkpoint {name} is missing", where=str(folder), fix="reinstall rba, or run python -m quickstart.build")
        return folder
    if name in SETS:
        from quickstart.speech import provide_split

        split, task = SETS[name]
        return provide_split(split, task=task, progress=progress)
    if name == VOICES:
        from quickstart.speech import provide_voices

        return provide_voices()
    raise UserError(f"the quickstart has no {name!r}", where="quickstart:", fix=f"use one of: {', '.join((*MODELS, *SETS, VOICES))}")
