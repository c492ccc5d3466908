"""The first stage where a corpus is the source: recordings become drafts, with their sound in one shard a block."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import msgspec
import xxhash

from actors.synthesis.corpora import fleurs
from actors.synthesis.corpora.corpus import SPLITS, Corpus, Recording
from actors.synthesis.corpora.covost import Covost
from actors.synthesis.corpora.held_out import HeldOut, keep_apart
from actors.synthesis.corpora.languages import language_name
from actors.synthesis.corpora.mustc import Mustc
from actors.synthesis.corpora.sound import DamagedSoundError, to_flac
from actors.synthesis.corpora.spoken_alpaca import SpokenAlpaca
from actors.synthesis.records import Draft, Spoken
from actors.synthesis.stage import Stage
from configs.corpus import CorpusSection
from configs.synthesis import SynthesisConfig
from protocol.dataset import ShardWriter
from protocol.dataset.disk import Appearing
from protocol.errors import UserError

USED_UP = "no further recording"
TOO_LONG = "longer than corpus.max_audio_s"
DAMAGED = "damaged audio"

Item = tuple[str, Recording]
"""(split, recording)."""


class CorpusInstructions(Stage):
    """The draft numbered n is the corpus' recording n: training first, then validation, then test.

    The recordings are listed when they are first needed. What they are depends on the corpus and the configuration alone, so a block that
    is made again is the same, and nothing but the blocks before it has to be skipped in an archive.
    """

    name = "instructions"
    reasons = (USED_UP, TOO_LONG, DAMAGED)

    def __init__(self, config: SynthesisConfig, folder: Path) -> None:
        """`folder` is the synthesis' own; shards go into its ``shards``, what was taken and left out of the corpus into ``corpus.json``."""
        self._section, self._seed = config.corpus, config.seed
        self._count = config.instructions.count
        self._folder = folder
        self._corpus = open_corpus(config.corpus)
        self._items: list[Item] | None = None
        self.left_out: Mapping[str, Counter[str]] = {}
        """Recordings that the listing left out, by split and reason."""

    def available(self) -> int:
        """Drafts that the corpus is good for."""
        return len(self._listed())

    def run(self, number: int, drafts: Sequence[Draft]) -> Sequence[Draft]:
        """The block's recordings, as drafts of their splits; drafts beyond the last recording are rejected."""
        first = int(drafts[0].id)
        items = self._listed()[first : first + len(drafts)]
        used_up = [_rejected(draft, USED_UP) for draft in drafts[len(items) :]]
        if not items:
            return used_up
        path = f"shards/corpus-{number:06d}.tar"
        with ShardWriter(self._folder / path) as shard:
            made = [self._draft(draft, *item, shard, path) for draft, item in zip(drafts, items, strict=False)]
        return made + used_up

    def _listed(self) -> list[Item]:
        if self._items is None:
            items, self.left_out = choose(self._corpus, self._section, self._seed)
            if len(items) > self._count:  # the test comes last
                raise UserError(
                    f"the corpus gives {len(items)} recordings, and instructions.count={self._count} would leave out the last of them",
                    where="instructions.count",
                    fix=f"set it to {len(items)} or more, or bound the splits by corpus.train, .validation and .test",
                )
            self._tell(items)
            self._items = items
        return self._items

    def _tell(self, items: Sequence[Item]) -> None:
        taken = Counter(split for split, _ in items)
        told = {split: {"taken": taken[split], "left_out": dict(self.left_out[split])} for split in SPLITS}
        with Appearing(self._folder / "corpus.json") as file:
            file.write(json.dumps(told, indent=2, ensure_ascii=False).encode() + b"\n")

    def _draft(self, draft: Draft, split: str, recording: Recording, shard: ShardWriter, path: str) -> Draft:
        section, corpus = self._section, self._corpus
        direction = f"{corpus.source}-{corpus.target}"
        known = msgspec.structs.replace(
            draft,
            instruction=recording.transcript,
            reference=recording.translation if split in section.own_references else "",
            prompt=task_prompt(section),
            spoken_language=corpus.source,
            language=corpus.target,
            topic=corpus.name if corpus.source == corpus.target else f"{corpus.name} {direction}",
            split=split,
            origin={
                "corpus": corpus.name,
                "direction": direction,
                "split": split,
                "item": recording.id,
                **({"sentence": recording.sentence} if recording.sentence else {}),
            },
        )
        if recording.duration_s is not None and recording.duration_s > section.max_audio_s:
            return _rejected(known, TOO_LONG, f"{recording.duration_s:.2f} s")
        try:
            content, duration_s = to_flac(corpus.sound(recording))
        except DamagedSoundError as error:
            if not section.skip_damaged:
                raise
            return _rejected(known, DAMAGED, str(error))
        if duration_s > section.max_audio_s:
            return _rejected(known, TOO_LONG, f"{duration_s:.2f} s")
        audio, offset, size_bytes = shard.add(content)
        spoken = Spoken(recording.speaker, audio, duration_s, path, offset, size_bytes)
        return msgspec.structs.replace(known, utterances=[spoken])


def open_corpus(section: CorpusSection) -> Corpus:
    """The corpus that the section names. Raises `UserError` when its folder is missing, or it has no such direction."""
    folder = Path(section.path or "").expanduser()
    if section.path is None or not folder.is_dir():
        raise UserError(
            "the corpus is not there", where=f"corpus.path: {section.path}", fix="give the folder that docs/synthesis.md describes"
        )
    if section.format == "spoken_alpaca":
        if (section.source_language, section.target_language) != ("en", "en"):
            raise UserError("Spoken-Alpaca is English", where="corpus.source_language, corpus.target_language", fix="set both to en")
        return SpokenAlpaca(folder)
    kinds: dict[str, Callable[[Path, str, str], Corpus]] = {"fleurs": fleurs.Fleurs, "covost2": Covost, "mustc": Mustc}
    return kinds[section.format](folder, section.source_language, section.target_language)


def choose(corpus: Corpus, section: CorpusSection, seed: int) -> tuple[list[Item], dict[str, Counter[str]]]:
    """(recordings in the order of reading, split by split; what was left out). The seed draws where a split is to give less than it has."""
    wanted = {"train": section.train, "validation": section.validation, "test": section.test}
    elsewhere = HeldOut()
    if section.kept_out is not None:
        elsewhere.add("FLEURS' test", *fleurs.tested(Path(section.kept_out).expanduser(), corpus.source))
    splits = {split: corpus.recordings(split) for split in SPLITS}
    kept, left_out = keep_apart(splits, elsewhere, section.own_references)
    items: list[Item] = []
    for split, recordings in kept.items():
        count = wanted[split]
        if count is not None and count < len(recordings):
            ranks = sorted(range(len(recordings)), key=lambda index: _rank(seed, recordings[index].id))
            recordings = [recordings[index] for index in sorted(ranks[:count])]
        items += [(split, recording) for recording in recordings]
    if not items:
        raise UserError(
            "nothing is left of the corpus", where=f"corpus.path: {section.path}", fix="raise corpus.train, .validation or .test"
        )
    return items, left_out


def task_prompt(section: CorpusSection) -> str:
    """The section's prompt with the languages' names in it."""
    names = {"{source}": language_name(section.source_language), "{target}": language_name(section.target_language)}
    prompt = section.prompt
    for field, name in names.items():
        prompt = prompt.replace(field, name)
    return prompt


def _rank(seed: int, name: str) -> int:
    return int(xxhash.xxh3_64_intdigest(f"{seed}:{name}".encode()))


def _rejected(draft: Draft, reason: str, detail: str = "") -> Draft:
    return msgspec.structs.replace(draft, rejected=f"{CorpusInstructions.name}: {reason}", detail=detail)
