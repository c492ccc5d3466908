"""What `rba dataset show` tells of a data set: tables in the terminal, or one page to look at and listen to."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jinja2

from ops import waves
from protocol.audio import decode
from protocol.dataset.dataset import DataSet
from protocol.dataset.figures import Figures, Numbers, figures
from protocol.dataset.inspection import Progress, manifests_of
from protocol.dataset.places import Place
from protocol.errors import UserError

if TYPE_CHECKING:
    from rich.table import Table

SAMPLED_GROUPS = 8
"""Of all manifests together, spread over each."""
MOST_AUDIO_BYTES = 6 << 20
"""Of all clips together, as they lie in the page."""
MOST_ROWS = 12
"""Of a table of topics, languages or voices."""
MAX_AUDIO_S = 3600.0
BINS = 46
SPREADS = ("languages", "topics", "voices")


class Shown:
    """The manifests of a path, and what is in them. Raises `UserError` for damage."""

    def __init__(self, path: str, progress: Progress) -> None:
        place, names = manifests_of(path)
        names = [name for name in names if not _empty(place, name)] or names
        self.path = path
        self.data = {name: DataSet.open(place.where(name)) for name in names}
        self.figures = [figures(data, name, lambda done, total: progress(name, done, total)) for name, data in self.data.items()]  # noqa: B023

    def write(self, page: Path) -> None:
        """The page, in one file that needs nothing from outside. Raises `UserError` where it cannot be written."""
        content = self.render()
        draft = page.with_name(f".{page.name}.partial")
        try:
            draft.write_text(content, encoding="utf-8")
            draft.replace(page)
        except OSError as error:
            raise UserError(f"the page cannot be written ({error.strerror})", where=str(page), fix="choose another file") from None

    def render(self) -> str:
        """The page's HTML."""
        environment = jinja2.Environment(
            loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"), autoescape=True, undefined=jinja2.StrictUndefined
        )
        return environment.get_template("dataset.html.j2").render(
            path=self.path,
            growing=any(each.growing for each in self.figures),
            totals=_totals(self.figures),
            manifests=[_described(each) for each in self.figures],
            groups=self._samples(),
        )

    def _samples(self) -> list[dict[str, Any]]:
        left_bytes, listed = MOST_AUDIO_BYTES, []
        each_has = max(1, SAMPLED_GROUPS // len(self.data))
        for name, data in self.data.items():
            total = len(data.groups)
            picked = [total * number // min(each_has, total) for number in range(min(each_has, total))]
            for at in picked:
                [(group, clips)] = data.spoken(range(at, at + 1))
                waiting = list(clips)
                said: list[dict[str, Any]] = []
                for one in group.utterances:
                    if one.audio is None:
                        said.append({"speaker": one.speaker, "source": "", "wave": "", "duration_s": None})
                        continue
                    clip = waiting.pop(0)
                    source = _data_uri(clip)
                    kept = len(source) <= left_bytes
                    left_bytes -= len(source) if kept else 0
                    wave = waves.waveform(decode(clip, one.audio, MAX_AUDIO_S))
                    said.append({"speaker": one.speaker, "source": source if kept else "", "wave": wave, "duration_s": one.duration_s})
                listed.append({"name": name, "number": at + 1, "group": group, "said": said})
        return listed


def _empty(place: Place, name: str) -> bool:
    """True for the manifest of a split that was given nothing."""
    try:
        return not place.size(name)
    except OSError:
        return False  # opening it tells why


def tables(shown: Shown) -> list[Table]:
    """For the terminal: what each manifest holds, and how it is spread."""
    from rich.table import Table

    counts = Table("manifest", *(f.name + (" (growing)" if f.growing else "") for f in shown.figures), box=None, pad_edge=False)
    rows = [_rows(each) for each in shown.figures]
    for number, (heading, _) in enumerate(rows[0]):
        counts.add_row(heading, *(each[number][1] for each in rows))
    spread = []
    for key in SPREADS:
        table = Table(key, *(each.name for each in shown.figures), box=None, pad_edge=False)
        for heading in _headings([getattr(each, key) for each in shown.figures]):
            table.add_row(heading, *(f"{_value(getattr(each, key), heading):,}" for each in shown.figures))
        spread.append(table)
    return [counts, *spread]


def _rows(each: Figures) -> list[tuple[str, str]]:
    return [
        ("groups", f"{each.groups:,}"),
        ("utterances", f"{each.utterances:,}"),
        ("spoken", f"{each.spoken:,}"),
        ("as text", f"{each.written:,}"),
        ("hours", f"{each.hours:,.2f}"),
        ("shards", f"{each.shards:,}"),
        ("single files", f"{each.files:,}"),
        ("seconds, median (5–95 %)", _middle(each.duration_s)),
        ("words of instructions", _middle(each.instruction_words)),
        ("words of references", _middle(each.reference_words)),
    ]


def _middle(numbers: Numbers) -> str:
    found = dict(numbers)
    return f"{found[0.5]:g} ({found[0.05]:g}–{found[0.95]:g})" if found else "–"


OTHERS = "(others)"


def _headings(counted: Sequence[Mapping[str, int]]) -> list[str]:
    """The most frequent ones of all together, and the rest in one."""
    together: dict[str, int] = {}
    for each in counted:
        for name, count in each.items():
            together[name] = together.get(name, 0) + count
    ranked = sorted(together, key=lambda name: -together[name])
    return ranked if len(ranked) <= MOST_ROWS else [*ranked[: MOST_ROWS - 1], OTHERS]


def _value(counted: Mapping[str, int], heading: str) -> int:
    if heading != OTHERS:
        return counted.get(heading, 0)
    return sum(counted.values()) - sum(sorted(counted.values(), reverse=True)[: MOST_ROWS - 1])


def _totals(counted: Sequence[Figures]) -> list[tuple[str, str]]:
    voices = {voice for each in counted for voice in each.voices}
    return [
        ("groups", f"{sum(each.groups for each in counted):,}"),
        ("utterances", f"{sum(each.utterances for each in counted):,}"),
        ("hours of speech", f"{sum(each.hours for each in counted):,.2f}"),
        ("voices", f"{len(voices):,}"),
    ]


def _described(each: Figures) -> dict[str, Any]:
    spreads = []
    for key in SPREADS:
        counted: dict[str, int] = getattr(each, key)
        most = max(counted.values(), default=1)
        listed = [(name, f"{_value(counted, name):,}", min(100.0, 100 * _value(counted, name) / most)) for name in _headings([counted])]
        spreads.append((key, listed))
    return {
        "name": each.name,
        "growing": each.growing,
        "digest": each.digest,
        "rows": _rows(each),
        "spreads": spreads,
        "durations": waves.histogram(each.durations_s, BINS, "s", f"seconds of the utterances of {each.name}"),
    }


def _data_uri(clip: bytes) -> str:
    kind = "flac" if clip.startswith(b"fLaC") else "wav"
    return f"data:audio/{kind};base64,{base64.b64encode(clip).decode()}"
