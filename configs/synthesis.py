"""How a data set is made: the pydantic schema of `rba synthesize`'s recipes, one section a stage."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from configs.section import NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, Section

TOPICS = (
    "Information Seeking", "Advice Seeking", "Creative Writing", "Planning", "Reasoning", "Brainstorming", "Role Playing", "Others",
)  # fmt: skip
"""The paper's eight (Table 1)."""
DIFFICULTIES = ("very easy", "easy", "medium", "hard", "very hard")


Share = Annotated[float, Field(gt=0, le=1)]


class LanguageModelSection(Section):
    """A language model: in this process, or behind an OpenAI-compatible server."""

    changeable = frozenset(
        {
            "url",
            "api_key_env",
            "concurrency",
            "timeout_s",
            "attempts",
            "tensor_parallel_size",
            "gpu_memory_utilization",
            "cpu_kvcache_bytes",
            "enforce_eager",
            "cpu_threads",
            "extra",
        }
    )

    model: str
    """Checkpoint folder, Hub name, `SCHEME:NAME` of an asset provider; with `url`, the name that the server knows it by."""
    url: str | None = None
    """Base URL of an OpenAI-compatible server (…/v1); without one, vLLM runs in process."""
    api_key_env: str | None = None
    """Environment variable that holds the server's key."""
    tokenizer: str | None = None
    """Where the chat template is read from when `url` is given: a folder or Hub name; by default `model`."""
    concurrency: PositiveInt = 64
    """Requests to the server at once."""
    timeout_s: PositiveFloat = 300.0
    attempts: PositiveInt = 8
    """Tries per request, with exponential back-off and jitter; then the synthesis stops, and goes on when it is called again."""
    tensor_parallel_size: PositiveInt = 1
    max_model_len: PositiveInt | None = 4096
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    gpu_memory_utilization: Share = 0.9
    cpu_kvcache_bytes: PositiveInt = 1 << 30
    enforce_eager: bool = False
    cpu_threads: NonNegativeInt = 0
    """Threads of the engine on a CPU; 0 leaves it to vLLM."""
    extra: dict[str, Any] = Field(default_factory=dict)
    """Further `EngineArgs` fields of vLLM; with `url`, further fields of each request (null leaves one out)."""
    chat_template_options: dict[str, Any] = Field(default_factory=dict)
    """What the chat template takes beside the messages, such as `enable_thinking: false` (Qwen3) or `date_string` (Llama 3.2)."""


class InstructionsSection(Section):
    """The instructions: written by the teacher itself, or taken from transcripts."""

    count: PositiveInt = 250_000
    """Instructions that are sampled, before the filter."""
    source: Literal["pre_query", "seeded_chat", "corpus"] = "pre_query"
    """`pre_query`: sampled from the chat template's text before a user's words (Magpie); `seeded_chat`: asked for in a chat, for servers
    without raw completions; `corpus`: the transcripts of `corpus`."""
    system: str | None = None
    """System prompt before the pre-query text; by default the template's own."""
    pre_query: str | None = None
    """Takes the place of what the chat template gives."""
    temperature: tuple[PositiveFloat, PositiveFloat] = (1.0, 1.2)
    """Each block draws one in this range."""
    top_p: tuple[Share, Share] = (0.99, 1.0)
    max_tokens: PositiveInt = 256
    first_line: bool = False
    """End at the first line's end."""


class CorpusSection(Section):
    """Recordings with transcripts: what the first stage hands on where `instructions.source` is `corpus`. One direction a data set."""

    changeable = frozenset({"path"})

    format: Literal["fleurs", "covost2", "mustc", "spoken_alpaca"] = "fleurs"
    """The corpus, in the layout that it is published in (docs/synthesis.md)."""
    path: str | None = None
    """Its folder."""
    source_language: str = "en"
    """ISO 639-1 code of what is spoken."""
    target_language: str = "en"
    """ISO 639-1 code of the references."""
    train: NonNegativeInt | None = None
    """Recordings of the corpus' training split, at most, drawn by the seed; null takes all."""
    validation: NonNegativeInt | None = None
    test: NonNegativeInt | None = None
    own_references: tuple[Literal["train", "validation", "test"], ...] = ("test",)
    """Splits whose references are the corpus' own; the teacher writes those of the others."""
    kept_out: str | None = None
    """A FLEURS folder whose test sentences stay out of training and validation, whatever the corpus."""
    prompt: str = "Translate the speech from {source} into {target}."
    """The task's prompt, text beside the audio; `{source}` and `{target}` stand for the languages' names."""
    max_audio_s: PositiveFloat = 30.0
    """Longer recordings are rejected."""
    skip_damaged: bool = False
    """Reject recordings that cannot be decoded, instead of stopping at the first."""


class ResponsesSection(Section):
    """The teacher's references."""

    temperature: NonNegativeFloat = 0.0
    top_p: Share = 1.0
    max_tokens: PositiveInt = 1024
    system: str | None = None
    prompt: Annotated[str, Field(pattern=r"\{instruction\}")] = "{instruction}"
    """The user's turn to the teacher; `{instruction}` and `{prompt}` (the task's) are replaced."""
    task_prompt: str = ""
    """Text that stands beside the audio in every group whose corpus gives it none."""
    language: str = "en"
    """Of the references."""


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


class SplitsSection(Section):
    """Held-out instructions, per topic."""

    validation_per_topic: NonNegativeInt = 128
    test_per_topic: NonNegativeInt = 200
    most_of_topic: Annotated[float, Field(ge=0, le=0.5)] = 0.2
    """Largest share of a topic that each of the two takes: small topics keep instructions to train on."""
    keep: bool = True
    """Leave drafts in the split that they come with, such as a corpus' own. Those without one are split."""


class SynthesisConfig(Section):
    """A synthesis: `rba synthesize CONFIG`."""

    changeable = frozenset({"directory"})

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")] = "synthesis"
    directory: str = "data"
    """The data set is made in `<directory>/<name>`."""
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
