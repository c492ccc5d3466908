"""Languages that are written without spaces between words, by the codes that data sets name them with (ISO 639-1, -2 and -3)."""

from __future__ import annotations

import re

CHINESE = ("zh", "zho", "chi", "cmn", "yue", "wuu", "hak", "gan", "hsn", "nan", "lzh")
JAPANESE = ("ja", "jpn")
KOREAN = ("ko", "kor")
"""Has spaces, between phrases that are longer than words."""
THAI, LAO, BURMESE, KHMER = ("th", "tha"), ("lo", "lao"), ("my", "mya", "bur"), ("km", "khm")


def base(language: str) -> str:
    """The language of a code such as ``zh``, ``zh-CN``, FLEURS' ``cmn_hans_cn`` or FLORES' ``zho_Hans``."""
    return re.split(r"[-_]", language.strip().lower(), maxsplit=1)[0]
