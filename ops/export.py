"""`rba export`: a checkpoint of a run as a plain Hugging Face checkpoint, without what only the learner needs."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from learner.checkpoint import CHECKPOINTS, DIGESTS, STATE, best_step, newest, verify
from ops.rundir import RunDir
from protocol.errors import UserError

WHISPER_WINDOW_S = 30.0
"""The window of audio that vLLM's own check of Qwen2-Audio's features wants."""


def export(run: RunDir, step: int | None, out: Path, *, best: bool = False) -> list[str]:
    """Copy the checkpoint of `step`, the `best` one by validation, or the last whole one, to the new folder `out`.

    Returns what its user has to know.

    Raises `UserError` when there is no such checkpoint, when a file of it is damaged, or when `out` holds something.
    """
    if best and (step := best_step(run.path)) is None:
        raise UserError("no validation has chosen a best checkpoint", where=str(run.path), fix="set validation.every, or use --step")
    source = run.path / CHECKPOINTS / f"step-{step}" if step is not None else newest(run.path)[0]
    if source is None or not source.is_dir():
        steps = sorted(int(path.name.removeprefix("step-")) for path in (run.path / CHECKPOINTS).glob("step-*"))
        wanted = "a whole checkpoint" if step is None else f"a checkpoint of step {step}"
        there = f"there are steps {', '.join(map(str, steps))}" if steps else "the run has written none"
        raise UserError(f"the run has not {wanted}", where=str(run.path), fix=f"name another with --step; {there}")
    damaged = verify(source)
    if damaged:
        raise UserError(f"the checkpoint is damaged: {', '.join(damaged)}", where=str(source), fix="export another step with --step")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError("the folder is not empty", where=str(out.absolute()), fix="give a new folder with --out")
    draft = out.with_name(f".{out.name}.partial")
    shutil.rmtree(draft, ignore_errors=True)
    shutil.copytree(source, draft, ignore=shutil.ignore_patterns(STATE, DIGESTS))
    if out.is_dir():
        out.rmdir()
    draft.rename(out)
    return notes(out)


def notes(checkpoint: Path) -> list[str]:
    """What other programs need to load a checkpoint."""
    extractor = json.loads((checkpoint / "preprocessor_config.json").read_text(encoding="utf-8"))
    window_s = float(extractor.get("chunk_length", WHISPER_WINDOW_S))
    if window_s == WHISPER_WINDOW_S:
        return []
    return [
        (
            f"its audio window is {window_s:g} s: transformers loads it as it is, vLLM where rba is installed beside it, whose plug-in "
            f"(vllm.general_plugins: rba) lets windows other than {WHISPER_WINDOW_S:g} s through"
        )
    ]
