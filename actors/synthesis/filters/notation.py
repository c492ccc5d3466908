"""What is written for eyes: formulas, source code, lists and tables, addresses. Pure; each finder returns what it found, or ""."""

from __future__ import annotations

import re

_LATEX = re.compile(
    r"\\(?:frac|sqrt|sum|int|cdot|times|begin|left|right|alpha|beta|theta|pi|text|mathbb|mathrm|infty|leq?|geq?|pm|\(|\[)|\$\$|\$[^$\d\s][^$\n]*[\\^_=+][^$\n]*\$"
)
_SYMBOLS = re.compile("[√∛∑∏∫∮∂∇∞∀∃∈∉⊂⊃⊆∪∩≈≅≡≠≤≥∝∠⊥∥⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻₀₁₂₃₄₅₆₇₈₉\U0001d400-\U0001d7ff]")
_EQUATION = re.compile(
    r"[A-Za-z0-9)\]]\s*(?:\^|\*\*)\s*[\w({-]|\b\w{1,3}\s?\(\s?\w\s?\)\s*=|[\w)\]]\s*(?<![=!<>+\-*/])=(?![=>])\s*[\w(+-]|\b\d+[xyz]\b(?=\s*(?:[-+*/=<>^]|$))"
)
_OPERATOR = re.compile(r"(?<=[\w)%])\s*[+*×÷<>±⋅·]\s*(?=[\w($-])|(?<=[\w)%])\s+[-−–/]\s+(?=[\d($])|(?<=\d)\s*[/−]\s*(?=\d)")

_DATE = re.compile(r"\b\d{1,4}([/.-])\d{1,2}\1\d{1,4}\b")

_CODE = re.compile(
    r"`[^`\n]+`|```|~~~"
    r"|^\s*(?:def|class|import|from|function|public|private|static|const|let|var|return|#include|using namespace)"
    r"\s+[\w<.*{(]+.*[;:{()<>=]\s*$"
    r"|\b[A-Za-z_][\w.]*\([^()\n]*\)\s*[;{]|\b\w+_\w+\s*\(|\b\w+\.\w+\("
    r"|[=!]==?(?=\s*[\w\"'])|[-=]>|::|&&|\|\||\+\+;|;\s*$\s*\S|\{\s*[\"'\w]+\s*:|\[\s*\d+\s*(?:,\s*-?\d+\s*){2,}\]"
    r"|</?(?:html|head|body|div|span|p|a|br|table|tr|td|ul|li|script|style|h[1-6]|img|input|form|button)\b[^>\n]*>"
    r"|\bSELECT\b.+\bFROM\b|\bINSERT INTO\b|^\s*(?:\$|>>>|sudo)\s+\w",
    re.MULTILINE,
)
_TABLE = re.compile(r"^\s*\|.*\|\s*$|^\s*[-:]{3,}\s*\|", re.MULTILINE)
_ITEM = re.compile(r"^\s*(?:[-*+•‣▪●]|\(?\d{1,2}[.)]|\(?[A-Da-d][.)])\s+\S", re.MULTILINE)
_MARKUP = re.compile(
    r"^\s*#{1,6}\s+\S|\*\*[^*\n]+\*\*|__[^_\n]+__|!?\[[^\]\n]+\]\([^)\n]+\)|^\s*>\s+\S|\t\S+\t|^\s*(?:-{3,}|={3,}|\*{3,})\s*$", re.MULTILINE
)
_ADDRESS = re.compile(
    r"\b(?:https?|ftp|file)://\S+|\bwww\.\S+\.\S+|[\w.+-]+@[\w-]+\.[\w.-]+|\b(?:[\w-]+\.)+(?:com|org|net|edu|gov|io|co|ai|dev|info)/\S*"
    r"|(?<!\S)~?(?:/[\w.-]+){2,}/?|\b[A-Za-z]:\\\w+|\b(?:\d{1,3}\.){3}\d{1,3}\b",
    re.IGNORECASE,
)  # fmt: skip

# What each of them cannot do without: most texts have none of it, and are let through by one quick look.
_FORMULA_SIGNS = re.compile(r"[\\$^*=+<>/\d]|[^\x00-\x7f]")
_CODE_SIGNS = re.compile(r"[`~(){}\[\];=<>:&|+$]|SELECT|INSERT|sudo")
_MARKUP_SIGNS = re.compile(r"[#*_\[|>\t\n=-]")
_ADDRESS_SIGNS = re.compile(r"[/@\\]|[wW]{3}|\d\.\d")


def mathematics(text: str, operators: int = 1) -> str:
    """A formula: LaTeX, mathematical symbols, an equation, or more than `operators` signs between operands.

    What is written in words stays, and so does one sign: "what is 3 + 4".
    """
    if not _FORMULA_SIGNS.search(text):
        return ""
    for pattern in (_LATEX, _SYMBOLS, _EQUATION):
        if found := pattern.search(text):
            return found.group().strip()
    signs = [found.group().strip() for found in _OPERATOR.finditer(_DATE.sub("1", text))]
    return " ".join(signs) if len(signs) > operators else ""


def code(text: str) -> str:
    """A piece of source code, or a command."""
    return _first(_CODE, text) if _CODE_SIGNS.search(text) else ""


def markup(text: str) -> str:
    """A table, two or more items of a list, a heading, emphasis or a link in Markdown."""
    if not _MARKUP_SIGNS.search(text):
        return ""
    if found := _first(_TABLE, text) or _first(_MARKUP, text):
        return found
    if "\n" not in text:
        return ""
    items = _ITEM.findall(text)
    return items[0].strip() if len(items) > 1 else ""


def address(text: str) -> str:
    """A URL, an e-mail or network address, a path. A bare domain can be spoken."""
    return _first(_ADDRESS, text) if _ADDRESS_SIGNS.search(text) else ""


def _first(pattern: re.Pattern[str], text: str) -> str:
    found = pattern.search(text)
    return found.group().strip()[:80] if found else ""
