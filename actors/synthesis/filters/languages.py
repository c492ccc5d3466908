"""Edge file (py3langid): instructions in another language than the one that is spoken."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from actors.synthesis.records import Draft
from protocol.errors import UserError


class OtherLanguage:
    """Finds instructions that are in another language, as likely as `confidence` at least.

    Short texts of common words look like many languages, and none of them is likely then; so they pass, as do those in languages that the
    library does not know.
    """

    def __init__(self, confidence: float) -> None:
        """Raises `UserError` where the library is not installed."""
        try:
            import py3langid
            from py3langid.langid import MODEL_FILE, LanguageIdentifier
        except ImportError:
            raise UserError(
                "languages cannot be told apart without py3langid", where="filter.language_confidence", fix="install rba[languages]"
            ) from None
        self._confidence = confidence
        self._identifier: Any = LanguageIdentifier.from_modelpath(Path(py3langid.__file__).parent / MODEL_FILE, norm_probs=True)
        self._known = frozenset(self._identifier.labels)

    def __call__(self, draft: Draft) -> str:
        """The other language and how likely it is, or ""."""
        spoken = draft.spoken_language.split("-")[0].lower()
        if spoken not in self._known:
            return ""
        language, probability = self._identifier.classify(draft.instruction)
        return f"{language} {probability:.2f}" if language != spoken and probability >= self._confidence else ""
