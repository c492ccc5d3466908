"""What is kept of the drafts of a synthesis, and under which names: its sections `filter`, `tags` and `splits`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from configs.section import NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, Section
from configs.teaching import LanguageModelSection

TOPICS = (
    "Information Seeking", "Advice Seeking", "Creative Writing", "Planning", "Reasoning", "Brainstorming", "Role Playing", "Others",
)  # fmt: skip
"""The paper's eight (Table 1)."""
DIFFICULTIES = ("very easy", "easy", "medium", "hard", "very hard")


class MeaningSection(Section):
    """Near duplicates by meaning: a sentence embedding model's mean pooling and cosine."""

    model: str
    """Checkpoint folder or Hub name, such as sentence-transformers/all-mpnet-base-v2."""
    similarity: Annotated[float, Field(gt=0, le=1)] = 0.975
    """Cosine from which on one of two is a duplicate. 0.975 is a squared distance of 0.05."""
    prefix: str = ""
    """What the model wants before each text."""
    max_tokens: PositiveInt = 128
    batch_texts: PositiveInt = 64


class FilterSection(Section):
    """What cannot be spoken, or is there already."""

    enabled: bool = True
    min_words: NonNegativeInt = 2
    max_words: PositiveInt = 60
    max_spoken_s: PositiveFloat = 30.0
    """Longest instruction, estimated from its letters; most SpeechLMs hear 30 s at once."""
    speaking_rate: PositiveFloat = 1.0
    """How much faster than usual the voices speak."""
    min_reference_words: NonNegativeInt = 1
    max_reference_words: PositiveInt | None = None
    """5 for short spoken answers."""
    mathematics: bool = True
    """Reject formulas. Arithmetic in words stays."""
    max_operators: NonNegativeInt = 1
    """Signs between operands that are no formula yet: 1 lets "what is 3 + 4" through."""
    code: bool = True
    """Reject source code and commands."""
    markup: bool = True
    """Reject tables, lists and Markdown."""
    addresses: bool = True
    """Reject URLs, e-mail addresses and paths."""
    blanks: bool = True
    """Reject places to fill in, such as [your name]."""
    characters: bool = True
    """Reject what a voice of the spoken language cannot read out: other scripts, emojis, signs."""
    scripts: tuple[str, ...] | None = None
    """Scripts that can be spoken, as Unicode names its letters (LATIN, CYRILLIC, CJK …); by default the language's."""
    also_characters: str = ""
    """Characters that can be spoken in any case."""
    words: tuple[str, ...] = ()
    """Words and phrases that an instruction must not have."""
    truncated: bool = True
    """Reject texts that end in a comma, a colon, a dash or an open bracket or quotation."""
    repeating: bool = True
    """Reject texts that loop."""
    refusals: bool | tuple[str, ...] = False
    """Reject references that decline: true for English phrases, or regular expressions for their first 200 characters."""
    language_confidence: Annotated[float, Field(gt=0, le=1)] | None = None
    """Reject instructions that are in another language than the spoken one, with this probability at least; 0.7 suits short ones. Needs the
    extra `languages`."""
    duplicates: bool = True
    """Reject instructions that were there before, up to case, punctuation and spaces."""
    near_duplicates: Annotated[float, Field(ge=0.5, le=1)] | None = 0.8
    """Reject from this overlap on: Jaccard similarity of runs of five characters. null compares whole texts only."""
    meaning: MeaningSection | None = None
    kept_out: tuple[str, ...] = ()
    """Manifests whose instructions do not get in, word for word to a listener: what a model is measured by. Paths, or `SCHEME:NAME` of
    an asset provider."""


class TagsSection(Section):
    """Topic and difficulty, by a language model of its own."""

    enabled: bool = True
    """Without it topics and difficulties stay as they came."""
    model: LanguageModelSection | None = None
    """The tagger; by default the teacher."""
    topics: Annotated[tuple[str, ...], Field(min_length=1)] = TOPICS
    """What an instruction may be about. The last one takes what fits none."""
    drop_topics: tuple[str, ...] = ("Mathematics", "Coding", "Editing", "Data Analysis")
    """Topics that are offered as well, and whose instructions go no further."""
    difficulty: bool = True
    """Ask how hard an instruction is, too."""
    explain: bool = True
    """Let the tagger put into words what is asked and what it takes, before it decides."""
    prompt: str | None = None
    """The user's turn to the tagger, instead of the built-in one; `{instruction}`, `{topics}` and `{difficulties}` are replaced."""
    max_tokens: PositiveInt = 384
    retry_temperature: NonNegativeFloat = 0.7
    """The first answer is greedy; one that cannot be read is asked for once more at this temperature."""
    unreadable: Literal["keep", "reject"] = "keep"
    """What happens after two unreadable answers: `keep` as the last topic, without a difficulty, or `reject`."""


class SplitsSection(Section):
    """Held-out instructions, per topic."""

    validation_per_topic: NonNegativeInt = 128
    test_per_topic: NonNegativeInt = 200
    most_of_topic: Annotated[float, Field(ge=0, le=0.5)] = 0.2
    """Largest share of a topic that each of the two takes: small topics keep instructions to train on."""
    keep: bool = True
    """Leave drafts in the split that they come with, such as a corpus' own. Those without one are split."""
