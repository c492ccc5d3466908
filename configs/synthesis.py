"""How a data set is made: the pydantic schema of `rba synthesize`'s recipes, one section a stage."""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import Field, model_validator

from configs.corpus import CorpusSection
from configs.section import NonNegativeInt, PositiveInt, Section
from configs.selection import FilterSection, SplitsSection, TagsSection
from configs.speech import SpeechSection
from configs.teaching import InstructionsSection, LanguageModelSection, ResponsesSection


class SynthesisConfig(Section):
    """A synthesis: `rba synthesize CONFIG`."""

    changeable = frozenset({"directory", "work_directory"})

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")] = "synthesis"
    directory: str = "data"
    """The data set is made in `<directory>/<name>`, which may be behind a URL (`s3://bucket/folder`)."""
    work_directory: str = "data"
    """Where `directory` is a URL: the folder of this machine in which it is made, and from which it is copied."""
    seed: NonNegativeInt = 0
    block_groups: PositiveInt = 256
    """Instructions that are committed at once, at every stage."""
    teacher: LanguageModelSection
    instructions: InstructionsSection = InstructionsSection()
    corpus: CorpusSection = CorpusSection()
    responses: ResponsesSection = ResponsesSection()
    filter: FilterSection = FilterSection()
    tags: TagsSection = TagsSection()
    splits: SplitsSection = SplitsSection()
    speech: SpeechSection = SpeechSection()

    @model_validator(mode="after")
    def a_corpus_is_named(self) -> Self:
        """Refuse `instructions.source: corpus` without one."""
        if self.instructions.source == "corpus" and self.corpus.path is None:
            raise ValueError("instructions.source=corpus needs corpus.path; give the folder of the corpus")
        return self
