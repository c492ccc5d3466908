"""ms-swift's JSON lines, for SFT from a data set, and for preference training from a run's pairs.

Audio lies in ``audio/`` beside the lines, which name it by absolute paths, as ms-swift asks for, or URLs.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from actors.datasets.conversion import Converted
from actors.datasets.examples import Example
from actors.datasets.preferences import Answer, Preference
from protocol.audio import audio_hash
from protocol.messages import InstructionGroup

LINES = "data.jsonl"
PLACEHOLDER = "<audio>"


def write(examples: Iterable[Example], folder: Path, out: Path | str) -> Counter[str]:
    """One line an utterance: the user's turn with the audio, the reference as the answer. `out` is where `folder` will be."""
    count = 0
    with (folder / LINES).open("w", encoding="utf-8") as file:
        for example in examples:
            count += 1
            line = _side(example.group, example.group.reference, example.clip, folder, out)
            file.write(_text({**line, **{key: value for key, value in example.texts().items() if key != "reference"}}))
    return Counter(lines=count)


def write_preferences(preferences: Iterable[Preference], folder: Path, out: Path | str) -> Counter[str]:
    """One line a pair, all in one form, for ms-swift takes a line without a field that others have as one without a value.

    The other answer is `rejected_response` where both answers of every pair are to one utterance, and else `rejected_messages` with
    `rejected_audios`.
    """
    counts: Counter[str] = Counter(lines=0)
    drafts = {form: folder / f"{form}.draft" for form in ("response", "messages")}
    with ExitStack() as stack:
        files = {form: stack.enter_context(path.open("w", encoding="utf-8")) for form, path in drafts.items()}
        for pair in preferences:
            is_shared = pair.chosen.utterance == pair.rejected.utterance
            if is_shared and pair.chosen.text == pair.rejected.text:  # ms-swift refuses such a line
                counts["pairs of equal answers left out"] += 1
                continue
            line = _side(pair.group, pair.chosen.text, pair.chosen.clip, folder, out)
            other = _side(pair.group, pair.rejected.text, pair.rejected.clip, folder, out)
            rejected = {f"rejected_{key}": value for key, value in other.items()}
            files["messages"].write(_text({**line, **rejected, **_beside(pair)}))
            files["response"].write(_text({**line, "rejected_response": pair.rejected.text, **_beside(pair)}))
            counts.update(("lines", "pairs of one voice" if is_shared else "pairs across two voices"))
    form = "messages" if counts["pairs across two voices"] else "response"
    drafts.pop(form).rename(folder / LINES)
    for path in drafts.values():
        path.unlink()
    return counts


def _side(group: InstructionGroup, answer: str, clip: Converted | None, folder: Path, out: Path | str) -> dict[str, Any]:
    user = f"{PLACEHOLDER}{group.prompt}" if clip is not None else "\n".join(filter(None, (group.instruction, group.prompt)))
    messages = [{"role": "user", "content": user}, {"role": "assistant", "content": answer}]
    return {"messages": messages, "audios": [_stored(clip, folder, out)] if clip is not None else []}


def _stored(clip: Converted, folder: Path, out: Path | str) -> str:
    digest = audio_hash(clip.content).rpartition(":")[2]
    name = Path("audio") / digest[:2] / f"{digest}.flac"
    if not (folder / name).exists():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(clip.content)
    return f"{out if isinstance(out, str) else out.absolute()}/{name.as_posix()}"


def _beside(pair: Preference) -> dict[str, Any]:
    """What ms-swift needs not; `margin` is for its reward models."""

    def known(answer: Answer) -> bool:
        return answer.reward is not None

    sides = (pair.chosen, pair.rejected)
    margin = (pair.chosen.reward or 0) - (pair.rejected.reward or 0) if all(map(known, sides)) else None
    speakers = [answer.utterance.speaker for answer in sides]
    return {"group_id": pair.group.group_id, "speakers": speakers, "margin": margin, "policy_version": pair.policy_version}


def _text(line: dict[str, Any]) -> str:
    return json.dumps(line, ensure_ascii=False) + "\n"
