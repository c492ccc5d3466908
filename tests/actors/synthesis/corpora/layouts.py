"""Small corpora in the layouts of the published ones."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import soundfile


def tone(hz: float, seconds: float, rate: int) -> np.ndarray:
    return (0.5 * np.sin(2 * np.pi * hz * np.arange(round(seconds * rate)) / rate)).astype(np.float32)


def encoded(samples: np.ndarray, rate: int, kind: str = "WAV") -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, rate, format=kind)
    return buffer.getvalue()


def fleurs_row(sentence: int, file: str, text: str, gender: str = "FEMALE") -> str:
    lowered = text.lower()
    return "\t".join([str(sentence), file, text, lowered, " ".join(lowered.replace(" ", "|")), "16000", gender])


def write_fleurs(folder: Path, language: str, split: str, rows: Iterable[tuple[int, str, str]], *, audio: bool = True) -> Path:
    """(sentence, file, text) of each recording; the archive holds them in the reverse order. The n-th tone has 300 + 100 n Hz."""
    table = folder / language / f"{split}.tsv"
    table.parent.mkdir(parents=True, exist_ok=True)
    rows = list(rows)
    table.write_text("".join(fleurs_row(*row) + "\n" for row in rows), encoding="utf-8")
    if audio:
        (table.parent / "audio").mkdir(exist_ok=True)
        with tarfile.open(table.parent / "audio" / f"{split}.tar.gz", "w:gz") as archive:
            for number, (_, file, _) in reversed(list(enumerate(rows))):
                content = encoded(tone(300 + 100 * number, 1.0, 16_000), 16_000)
                member = tarfile.TarInfo(f"{split}/{file}")
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))
    return table


def german_english(folder: Path) -> Path:
    """FLEURS with German recordings and English sentences: 4 for training (one sentence twice), 1 validation, 2 test."""
    write_fleurs(
        folder,
        "de_de",
        "train",
        [(1, "a.wav", "Guten Tag."), (2, "b.wav", "Zwei Worte."), (1, "c.wav", "Guten Tag."), (3, "d.wav", "Drei.")],
    )
    write_fleurs(folder, "de_de", "dev", [(4, "e.wav", "Vier gewinnt.")])
    write_fleurs(folder, "de_de", "test", [(5, "f.wav", "Fünf Äpfel!"), (6, "g.wav", "Sechs.")])
    write_fleurs(folder, "en_us", "train", [(1, "h.wav", "Good day."), (2, "i.wav", "Two words."), (3, "j.wav", "Three.")], audio=False)
    write_fleurs(folder, "en_us", "dev", [(4, "k.wav", "Four wins.")], audio=False)
    write_fleurs(folder, "en_us", "test", [(5, "l.wav", "Five apples!"), (6, "m.wav", "Six.")], audio=False)
    return folder


def write_covost(folder: Path) -> Path:
    """English into German, with MP3 at 48 kHz: train 2 (one of them train_covost), validation 1, test 1; one clip of another split."""
    (folder / "clips").mkdir(parents=True)
    header = "client_id\tpath\tsentence\tup_votes\tdown_votes\tage\tgender\taccent\n"
    sentences = {"one": "Good morning.", "two": 'He said \\"no\\".', "three": "The third.", "four": "The fourth.", "five": "Untranslated."}
    validated = "".join(f"{'0123456789abcdef' * 8}\t{name}.mp3\t{text}\t2\t0\t\t\t\n" for name, text in sentences.items())
    (folder / "validated.tsv").write_text(header + validated, encoding="utf-8")
    rows = [
        ("two", "Er sagte nein.", "train_covost"),
        ("one", "Guten Morgen.", "train"),
        ("three", "Das dritte.", "dev"),
        ("four", "Das vierte.", "test"),
    ]
    rows.append(("gone", "Nicht mehr da.", "train"))
    covost = "path\ttranslation\tsplit\n" + "".join(f"{name}.mp3\t{text}\t{split}\n" for name, text, split in rows)
    (folder / "covost_v2.en_de.tsv").write_text(covost, encoding="utf-8")
    for number, name in enumerate(sentences):
        (folder / "clips" / f"{name}.mp3").write_bytes(encoded(tone(300 + 100 * number, 1.0, 48_000), 48_000, "MP3"))
    return folder


def write_mustc(folder: Path) -> Path:
    """English into Spanish: one talk a split, with a tone of 400 Hz in its first two seconds and of 800 Hz behind."""
    for split in ("train", "dev", "tst-COMMON"):
        data = folder / "en-es" / "data" / split
        (data / "wav").mkdir(parents=True)
        (data / "txt").mkdir()
        talk = np.concatenate([tone(400, 2.0, 16_000), tone(800, 2.0, 16_000)])
        (data / "wav" / "ted_1.wav").write_bytes(encoded(talk, 16_000))
        segments = [(0.5, 1.0), (2.25, 1.5)]
        (data / "txt" / f"{split}.yaml").write_text(
            "".join(
                f"- {{duration: {length}, offset: {start}, rW: 4, uW: 0, speaker_id: spk.7, wav: ted_1.wav}}\n"
                for start, length in segments
            )
        )
        (data / "txt" / f"{split}.en").write_text(f"The {split} begins.\n(Applause)\n")
        (data / "txt" / f"{split}.es").write_text(f"Empieza {split}.\n(Aplausos)\n")
    return folder


def write_alpaca(folder: Path, rows: int = 6) -> Path:
    """One file of two row groups, at 22,050 Hz."""
    import pyarrow as pa
    from pyarrow import parquet

    (folder / "data").mkdir(parents=True)
    table = pa.table(
        {
            "instruction": [f"Say {row}" for row in range(rows)],
            "output": [f"Answer {row}" for row in range(rows)],
            "speech_input": [f"Say number {row}." for row in range(rows)],
            "input_audio": [{"bytes": encoded(tone(300 + 100 * row, 0.5, 22_050), 22_050), "path": None} for row in range(rows)],
        }
    )
    parquet.write_table(table, folder / "data" / "train-00000-of-00001.parquet", row_group_size=-(-rows // 2))
    return folder
