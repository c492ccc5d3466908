"""The languages of the corpora: their names in a prompt, and what each corpus calls them."""

from __future__ import annotations

from protocol.errors import UserError

NAMES = {
    "ar": "Arabic", "ca": "Catalan", "cy": "Welsh", "de": "German", "el": "Greek", "en": "English", "es": "Spanish", "et": "Estonian",
    "fa": "Persian", "fr": "French", "hi": "Hindi", "id": "Indonesian", "it": "Italian", "ja": "Japanese", "ko": "Korean",
    "lo": "Lao", "lv": "Latvian", "mn": "Mongolian", "my": "Burmese", "nl": "Dutch", "pt": "Portuguese", "ro": "Romanian",
    "ru": "Russian", "sl": "Slovenian", "sv": "Swedish", "ta": "Tamil", "th": "Thai", "tr": "Turkish", "uk": "Ukrainian",
    "vi": "Vietnamese", "zh": "Chinese",
}  # fmt: skip
"""By ISO 639-1 code."""
FLEURS = {
    "ar": "ar_eg", "ca": "ca_es", "cy": "cy_gb", "de": "de_de", "el": "el_gr", "en": "en_us", "es": "es_419", "et": "et_ee",
    "fa": "fa_ir", "fr": "fr_fr", "hi": "hi_in", "id": "id_id", "it": "it_it", "ja": "ja_jp", "ko": "ko_kr", "lo": "lo_la",
    "lv": "lv_lv", "mn": "mn_mn", "my": "my_mm", "nl": "nl_nl", "pt": "pt_br", "ro": "ro_ro", "ru": "ru_ru", "sl": "sl_si",
    "sv": "sv_se", "ta": "ta_in", "th": "th_th", "tr": "tr_tr", "uk": "uk_ua", "vi": "vi_vn", "zh": "cmn_hans_cn",
}  # fmt: skip
COVOST = {"zh": "zh-CN", "sv": "sv-SE"}
"""Where Common Voice differs."""
INTO_ENGLISH = frozenset(
    {"ar", "ca", "cy", "de", "es", "et", "fa", "fr", "id", "it", "ja", "lv", "mn", "nl", "pt", "ru", "sl", "sv", "ta", "tr", "zh"}
)
"""What CoVoST 2 translates into English."""
FROM_ENGLISH = frozenset({"ar", "ca", "cy", "de", "et", "fa", "id", "ja", "lv", "mn", "sl", "sv", "ta", "tr", "zh"})
"""What CoVoST 2 translates English into."""
MUSTC = frozenset({"de", "es", "fr", "it", "nl", "pt", "ro", "ru"})
"""What MuST-C translates English into."""


def language_name(code: str) -> str:
    """In English. Raises `UserError` for one that has none here."""
    if code not in NAMES:
        raise UserError(f"no language {code!r}", where="corpus", fix=f"give one of {', '.join(sorted(NAMES))}")
    return NAMES[code]


def fleurs_code(code: str) -> str:
    """FLEURS' name of a language. Raises `UserError`."""
    language_name(code)
    return FLEURS[code]


def covost_code(code: str) -> str:
    """CoVoST 2's name of a language. Raises `UserError`."""
    language_name(code)
    return COVOST.get(code, code)


def check_direction(corpus: str, source: str, target: str) -> None:
    """Refuse what the corpus has no translations for."""
    if corpus == "CoVoST 2":
        possible = (target == "en" and source in INTO_ENGLISH) or (source == "en" and target in FROM_ENGLISH)
        has = f"{', '.join(sorted(INTO_ENGLISH))} into en, and en into {', '.join(sorted(FROM_ENGLISH))}"
    else:
        possible = source == "en" and target in MUSTC
        has = f"en into {', '.join(sorted(MUSTC))}"
    if not possible:
        raise UserError(
            f"{corpus} has no translations of {source} into {target}",
            where="corpus.source_language, corpus.target_language",
            fix=f"it has {has}",
        )
