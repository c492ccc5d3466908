from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import manifest
from protocol.dataset import DataSet
from protocol.dataset.inspection import inspect


def test_both_sides_read_the_same_manifest(tmp_path: Path) -> None:
    path = manifest.write_manifest(tmp_path, 30)
    ours, theirs = manifest.open_ours(path, tmp_path), manifest.open_json(path, tmp_path)
    assert ours[0] == theirs[0] == 30
    assert ours[1](7).reference == theirs[1](7)["reference"]


def test_both_sides_read_the_same_audio(tmp_path: Path) -> None:
    path = manifest.write_audio(tmp_path, 12)
    assert not inspect(path, hear=True).findings
    assert manifest.streamed(path) == manifest.looked_up(path) == manifest.plain(path) == 12
    assert {one.duration_s for group in DataSet.open(path).groups for one in group.utterances} == {manifest.SECONDS}


def test_rows_are_made_at_any_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(manifest, "REPEATS", 1)
    monkeypatch.setattr(manifest, "find_spec", lambda name: name == "json" or None)
    rows = [*manifest.openings(tmp_path / "manifest", 2000), *manifest.audio(tmp_path / "audio", 8)]
    assert [row["peer"] for row in rows] == ["json.loads"] * 2 + ["tarfile + soundfile"] * 2
    assert all(row["ours"] > 0 for row in rows)
