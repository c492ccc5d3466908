"""The built-in bank: voices of espeak-ng, each an accent or language with a variant, a pace and a pitch of its own. Pure."""

from __future__ import annotations

import xxhash

from actors.synthesis.speech.voices import Voice

ACCENTS = {
    "us": "en-us", "gb": "en", "rp": "en-gb-x-rp", "scotland": "en-gb-scotland", "lancaster": "en-gb-x-gbclan",
    "midlands": "en-gb-x-gbcwmd", "caribbean": "en-029", "nyc": "en-us-nyc",
}  # fmt: skip
LANGUAGES = {
    "ar": "ar", "ca": "ca", "cs": "cs", "de": "de", "el": "el", "es": "es", "fi": "fi", "fr": "fr", "hi": "hi", "hu": "hu", "id": "id",
    "it": "it", "nl": "nl", "pl": "pl", "pt": "pt", "ro": "ro", "ru": "ru", "sv": "sv", "tr": "tr", "uk": "uk", "vi": "vi", "zh": "cmn",
}  # fmt: skip
VARIANTS = (
    "Alex", "Alicia", "Andrea", "Andy", "Annie", "Denis", "Diogo", "Gene", "Gene2", "Henrique", "Hugo", "Lee", "Mario", "Michael", "Mike",
    "Nguyen", "Reed", "RicishayMax", "RicishayMax2", "Storm", "adam", "anika", "announcer", "aunty", "belinda", "benjamin", "boris",
    "caleb", "david", "ed", "edward", "edward2", "f1", "f2", "f3", "f4", "f5", "grandma", "grandpa", "gustave", "ian", "iven3", "iven4",
    "john", "linda", "m1", "m2", "m3", "m4", "m5", "m6", "m7", "m8", "marcelo", "max", "michel", "miguel", "mike2", "norbert", "pablo",
    "paul", "pedro", "quincy", "rob", "robert", "sandro", "shelby", "steph", "steph2", "travis", "victor", "zac",
)  # fmt: skip
"""Those that sound like people; robots, whispers, and variants that clip are left out."""


def builtin() -> list[Voice]:
    """Every voice: for English each accent with each variant, for other languages each variant."""
    spoken = [("en", accent, espeak) for accent, espeak in ACCENTS.items()]
    spoken += [(language, language, espeak) for language, espeak in LANGUAGES.items()]
    return [_voice(language, accent, espeak, variant) for language, accent, espeak in spoken for variant in VARIANTS]


def _voice(language: str, accent: str, espeak: str, variant: str) -> Voice:
    name = f"{accent}-{variant}"
    drawn = xxhash.xxh3_64_intdigest(name.encode())
    return Voice(
        name=name,
        espeak=f"{espeak}+{variant}",
        words_per_minute=150 + drawn % 41,
        pitch=40 + (drawn >> 16) % 21,
        pitch_range=40 + (drawn >> 32) % 31,
        accent=accent if language == "en" else "",
        language=language,
    )
