"""MuST-C: TED talks in English with translations, cut into segments.

    <folder>/en-<target>/data/<split>/txt/<split>.yaml     one segment a line: duration, offset, speaker_id, wav
    <folder>/en-<target>/data/<split>/txt/<split>.{en,<target>}
    <folder>/en-<target>/data/<split>/wav/*.wav            a talk each

for the splits train, dev and tst-COMMON. The n-th lines of the three files belong together.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from actors.synthesis.corpora.corpus import Corpus, Recording, damaged, lines
from actors.synthesis.corpora.languages import check_direction
from actors.synthesis.corpora.sound import Sound, decode

FOLDERS = {"train": "train", "validation": "dev", "test": "tst-COMMON"}
PAIR = re.compile(r"([A-Za-z_]+):\s*('[^']*'|\"[^\"]*\"|[^,{}]+)")
"""`key: value` in a segment's line, ``- {duration: 3.5, offset: 16.08, rW: 9, uW: 0, speaker_id: spk.1, wav: ted_1.wav}``; a YAML parser
takes minutes for the quarter of a million of them."""


class Mustc(Corpus):
    """English into one language."""

    name = "MuST-C"

    def __init__(self, folder: Path, source: str, target: str) -> None:
        check_direction(self.name, source, target)
        self.source, self.target = source, target
        self._data = folder / f"en-{target}" / "data"

    def recordings(self, split: str) -> Sequence[Recording]:
        """Talk by talk."""
        name = FOLDERS[split]
        texts = self._data / name / "txt"
        segments = [(number, line) for number, line in lines(texts / f"{name}.yaml") if line.strip()]
        english = [line for _, line in lines(texts / f"{name}.en")]
        translated = [line for _, line in lines(texts / f"{name}.{self.target}")]
        for path, there in ((texts / f"{name}.en", english), (texts / f"{name}.{self.target}", translated)):
            if len(there) != len(segments):
                raise damaged(path, min(len(there), len(segments)) + 1, f"{len(there)} lines, and {name}.yaml has {len(segments)} segments")
        talks: Counter[str] = Counter()
        table = str(texts / f"{name}.yaml")
        found = []
        for (number, line), transcript, translation in zip(segments, english, translated, strict=True):
            wav, speaker, offset_s, duration_s = _segment(table, number, line)
            found.append(
                Recording(
                    id=f"{name}/{wav.removesuffix('.wav')}_{talks[wav]}",
                    transcript=transcript.strip(),
                    translation=translation.strip(),
                    speaker=f"en-{speaker}",
                    file=f"{name}/wav/{wav}",
                    start_s=offset_s,
                    duration_s=duration_s,
                    row=f"{table}, line {number}",
                )
            )
            talks[wav] += 1
        return found

    def sound(self, recording: Recording) -> Sound:
        """The segment of its talk."""
        return decode(self._data / recording.file, f"{recording.file}, {recording.row}", recording.start_s, recording.duration_s)


def _segment(table: str, number: int, line: str) -> tuple[str, str, float, float]:
    """(file, speaker, start in seconds, duration in seconds)."""
    fields = {key: value.strip().strip("'\"") for key, value in PAIR.findall(line)}
    try:
        return fields["wav"], fields["speaker_id"], float(fields["offset"]), float(fields["duration"])
    except (KeyError, ValueError) as error:
        raise damaged(table, number, f"no segment with wav, speaker_id, offset and duration ({error})") from None
