"""Who speaks in a synthesis, and how it is checked: its section `speech`."""

from __future__ import annotations

from typing import Any, Literal, Self

from pydantic import Field, model_validator

from configs.section import NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, Section


class SpeechServerSection(Section):
    """An OpenAI-compatible POST /v1/audio/speech."""

    changeable = frozenset({"url", "api_key_env", "concurrency", "timeout_s", "attempts", "takes"})

    url: str
    """Base URL (…/v1)."""
    model: str = ""
    api_key_env: str | None = None
    """Environment variable that holds the server's key."""
    response_format: Literal["wav", "flac", "pcm"] = "wav"
    pcm_rate_hz: PositiveInt = 24_000
    """Rate of `pcm`, which is 16 bit mono without a header."""
    speed: PositiveFloat | None = None
    clone: bool = True
    """Send the recording and transcript of voices that have one (`ref_audio`, `ref_text`), as vLLM-Omni takes them."""
    task_type: str | None = None
    """With Qwen3-TTS `Base` for cloning, `CustomVoice` for presets."""
    extra: dict[str, Any] = Field(default_factory=dict)
    """Further fields of each request."""
    concurrency: PositiveInt = 32
    """Requests at once."""
    timeout_s: PositiveFloat = 120.0
    attempts: PositiveInt = 8
    """Tries per request while the server is gone or busy, with exponential back-off and jitter; then the synthesis stops, and goes on when
    it is called again."""
    takes: PositiveInt = 2
    """Tries per voice when the answer is no speech that can be used; then another voice speaks."""


class TranscriptsSection(Section):
    """An OpenAI-compatible POST /v1/audio/transcriptions that hears what was said."""

    changeable = frozenset({"url", "api_key_env", "concurrency", "timeout_s", "attempts"})

    url: str
    """Base URL (…/v1)."""
    model: str
    api_key_env: str | None = None
    """Environment variable that holds the server's key."""
    max_word_error: NonNegativeFloat = 0.2
    """Share of words (of characters in Chinese, Japanese and Thai) that may differ; above it another voice speaks."""
    concurrency: PositiveInt = 16
    timeout_s: PositiveFloat = 120.0
    attempts: PositiveInt = 8
    """Tries per request while the server is gone or busy."""


class SpeechSection(Section):
    """Voices, and who speaks."""

    changeable = frozenset({"processes"})

    backend: str = "espeak"
    """`espeak` (offline), `openai` (any /v1/audio/speech server), or the name of an entry point of the group `rba.speech`."""
    voices_per_group: PositiveInt = 4
    """Distinct voices, drawn by a hash of seed and instruction."""
    min_voices: PositiveInt = 2
    """An instruction that fewer voices can speak is rejected; above `voices_per_group` it means all of them."""
    spare_voices: NonNegativeInt = 4
    """Further voices that an instruction may try in place of those that fail."""
    bank: str | None = None
    """JSONL or CSV file of voices, or a folder of recordings with transcripts, flat or in LibriTTS's layout; by default the built-in voices
    of espeak-ng."""
    presets: list[str] = Field(default_factory=list)
    """Names of voices that the server or plug-in has by itself, in place of a bank."""
    spoken_form: Literal["auto", "always", "never"] = "auto"
    """Write numbers, dates, currencies and symbols out before they are spoken (English, Chinese, Japanese); `auto`: where the back end does
    not do it by itself."""
    max_audio_s: PositiveFloat = 30.0
    """Longest utterance."""
    characters_per_s: dict[str, tuple[PositiveFloat, PositiveFloat]] = Field(default_factory=dict)
    """Slowest and fastest plausible speech in letters and digits a second, by language ("" for all others); speech outside is refused. By
    default 3 to 40, in Chinese, Japanese and Korean 1 to 15."""
    text_utterance: bool = False
    """Add the instruction as plain text: the data set is then bi-modal."""
    revoice: bool = False
    """Speak training instructions again that come with a corpus' own recordings; by default these are kept. Those held out always are."""
    copies: PositiveInt = 1
    """Times that a corpus' own recording is listed in its group in training: so many samples of the same audio are compared."""
    processes: NonNegativeInt = 0
    """Processes that speak (`espeak` only); 0 for one a core."""
    server: SpeechServerSection | None = None
    """Needed by `openai`."""
    transcripts: TranscriptsSection | None = None
    """Have what was said transcribed and compared with the text; by default nobody listens."""
    options: dict[str, Any] = Field(default_factory=dict)
    """What a plug-in is told."""

    @property
    def fewest_voices(self) -> int:
        """What an instruction needs at least."""
        return min(self.min_voices, self.voices_per_group)

    @model_validator(mode="after")
    def combinations_are_possible(self) -> Self:
        """Refuse combinations that could not run, with what to do instead."""
        if self.backend == "openai" and self.server is None:
            raise ValueError("speech.backend=openai needs speech.server.url, the address of the server (…/v1)")
        if self.bank is not None and self.presets:
            raise ValueError("speech.bank and speech.presets both name the voices; leave one of them out")
        if self.backend == "openai" and self.bank is None and not self.presets:
            raise ValueError("speech.backend=openai needs speech.bank, or the server's own voices by name in speech.presets")
        return self
