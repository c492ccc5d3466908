"""Which characters a voice of a language can speak. Pure."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence

_HAN = ("CJK", "IDEOGRAPHIC")
SCRIPTS: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(("zh", "yue", "wuu"), (*_HAN, "BOPOMOFO")),
    "ja": (*_HAN, "HIRAGANA", "KATAKANA"),
    "ko": ("HANGUL", "CJK"),
    **dict.fromkeys(("ru", "uk", "be", "bg", "mk", "kk", "ky", "mn", "tg"), ("CYRILLIC",)),
    "sr": ("CYRILLIC", "LATIN"),
    **dict.fromkeys(("ar", "fa", "ur", "ps", "ckb", "sd", "ug"), ("ARABIC",)),
    **dict.fromkeys(("hi", "mr", "ne", "sa"), ("DEVANAGARI",)),
    **dict.fromkeys(("bn", "as"), ("BENGALI",)),
    **dict.fromkeys(("he", "yi"), ("HEBREW",)),
    **dict.fromkeys(("am", "ti"), ("ETHIOPIC",)),
    "el": ("GREEK",), "th": ("THAI",), "lo": ("LAO",), "my": ("MYANMAR",), "km": ("KHMER",), "ka": ("GEORGIAN",), "hy": ("ARMENIAN",),
    "ta": ("TAMIL",), "te": ("TELUGU",), "kn": ("KANNADA",), "ml": ("MALAYALAM",), "gu": ("GUJARATI",), "pa": ("GURMUKHI",),
    "or": ("ORIYA",), "si": ("SINHALA",),
}  # fmt: skip
"""By language, as the first word of the characters' Unicode names; Latin belongs to every one, and to all others."""
_WRITTEN = frozenset("[]{}\\_§¶†‡※•‣●")
"""Punctuation that nobody speaks."""
_SIGNS = frozenset("+=×÷−±°©®™½¼¾")
_FIRST_WORD = re.compile(r"[ -]")


class Characters:
    """What can be spoken in one language. Remembers each character's answer."""

    def __init__(self, language: str, scripts: Sequence[str] | None = None, also: str = "") -> None:
        """`scripts`: instead of the language's own. `also`: characters that pass in any case."""
        own = SCRIPTS.get(language.split("-")[0].lower(), ()) if scripts is None else tuple(script.upper() for script in scripts)
        self._scripts = frozenset((*own, "LATIN", "FEMININE", "MASCULINE"))
        self._speakable = dict.fromkeys(also, True)

    def unspeakable(self, text: str) -> str:
        """The first character that cannot be spoken, by code point and name, or ""."""
        for character in text:
            speakable = self._speakable.get(character)
            if speakable is None:
                speakable = self._speakable[character] = self._decide(character)
            if not speakable:
                return f"U+{ord(character):04X} {unicodedata.name(character, 'unnamed')}"
        return ""

    def _decide(self, character: str) -> bool:
        category = unicodedata.category(character)
        script = _FIRST_WORD.split(unicodedata.name(character, "-"))[0]
        match category[0]:
            case "L":
                return script in self._scripts
            case "M":
                return category != "Me" and script != "VARIATION"
            case "N":
                return character in _SIGNS or (category == "Nd" and (script == "DIGIT" or script in self._scripts))
            case "P":
                return character not in _WRITTEN
            case "Z":
                return True
        if category == "Cf":  # joiners belong to the spelling of many scripts, not to Latin
            return character in "\u200c\u200d" and self._scripts != {"LATIN", "FEMININE", "MASCULINE"}
        return category == "Sc" or character in _SIGNS or character in "\n\r\t"
