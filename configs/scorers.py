"""What answers are scored by: the scorers of a reward server, and what each of them needs."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, field_validator

from configs.section import NonNegativeFloat, PositiveFloat, PositiveInt, Section

NEEDS = {"seqcls": ["model"], "armorm": ["model"], "judge": ["judge.url", "judge.model"], "python": ["python.function"]}
"""The keys that have no default, by scorer."""
CHECKPOINT_SCORERS = frozenset({"seqcls", "armorm"})
REFERENCE_SCORERS = frozenset({"bleu", "chrf", "qa", "judge"})
"""Those that compare an answer with the reference."""


class QaSection(Section):
    """The scorer `qa`."""

    score: Literal["containment", "exact"] = "containment"
    """`containment`: 1 when the answer contains an acceptable one, as a run of whole words; `exact`: 1 when it is one, but for case,
    punctuation and articles. Both are parts of the score."""


class JudgeSection(Section):
    """The scorer `judge`."""

    changeable = frozenset({"url", "api_key_env", "concurrency", "timeout_s", "attempts"})

    url: str | None = None
    """Base URL of an OpenAI-compatible server (…/v1)."""
    model: str | None = None
    """The name that the server knows the judge by."""
    api_key_env: str | None = None
    """Environment variable that holds the server's key, on the machines of the reward servers."""
    temperature: NonNegativeFloat = 0.0
    max_tokens: PositiveInt = 512
    """Longest answer of the judge."""
    concurrency: PositiveInt = 16
    """Requests at once; each item takes two."""
    timeout_s: PositiveFloat = 60.0
    """Of one request."""
    attempts: PositiveInt = 4
    """Tries per request, with exponential back-off and jitter; then the item ends without a score."""
    extra: dict[str, Any] = {}
    """Further fields of each request."""


class PythonSection(Section):
    """The scorer `python`."""

    function: str | None = None
    """`module:function`, or the name of an entry point of the group `rba.scorers`."""
    settings: dict[str, Any] = {}
    """Keyword arguments of the function, beside the items."""


class ScorerSection(Section):
    """One scorer with its settings."""

    scorer: str
    model: str | None = None
    """Checkpoint of the scorer: a path, a Hub name or `SCHEME:NAME` of an asset provider."""
    qa: QaSection = QaSection()
    judge: JudgeSection = JudgeSection()
    python: PythonSection = PythonSection()

    @field_validator("scorer", mode="before")
    @classmethod
    def scorers_have_their_names(cls, value: Any) -> Any:
        """`reward_model`, after the kind of checkpoint, is no name of a scorer."""
        if value == "reward_model":
            raise ValueError("no scorer is called reward_model; write seqcls, which scores by any sequence-classification checkpoint")
        return value

    def missing_key(self) -> str | None:
        """The key that the scorer needs and that is not set, without the section's own."""
        for key in NEEDS.get(self.scorer, []):
            section, _, name = key.rpartition(".")
            if not getattr(getattr(self, section) if section else self, name):
                return key
        return None


class PartSection(ScorerSection):
    """One part of a combination; the keys of its scorer are those of `rewards`."""

    scorer: Literal["seqcls", "armorm", "bleu", "chrf", "qa", "judge", "python"]
    """As `rewards.scorer`."""
    weight: Annotated[float, Field(allow_inf_nan=False)] = 1.0
    """What the part's score is multiplied by; with 0 it is measured and changes nothing."""
