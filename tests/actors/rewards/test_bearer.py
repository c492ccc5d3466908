import os
from pathlib import Path

import pytest

from actors.rewards import bearer
from protocol.errors import UserError

TOKEN = "a-token-of-some-length"


def written(path: Path, text: str = TOKEN, mode: int = 0o600) -> str:
    path.write_text(text)
    path.chmod(mode)
    return str(path)


def test_the_file_goes_before_the_environment(tmp_path: Path):
    environment = {bearer.VARIABLE: "another-token-of-length"}
    assert bearer.read(written(tmp_path / "token", TOKEN + "\n"), environment) == TOKEN
    assert bearer.read(None, environment) == "another-token-of-length"
    assert bearer.read(None, {}) is None
    assert bearer.read(None, {bearer.VARIABLE: ""}) is None


@pytest.mark.parametrize("text", ["", "short", "two words of enough length", "sechzehn-ÄÖÜ-oder-mehr", "line\nline-line-line-line"])
def test_what_is_no_token_is_refused_and_not_shown(tmp_path: Path, text: str):
    with pytest.raises(UserError, match="no token") as caught:
        bearer.read(written(tmp_path / "token", text), {})
    assert not text or text not in str(caught.value)


def test_a_file_that_is_missing_or_open_to_others_is_refused(tmp_path: Path):
    with pytest.raises(UserError, match="cannot be read"):
        bearer.read(str(tmp_path / "nothing"), {})
    for mode in (0o640, 0o604):
        with pytest.raises(UserError, match="others may read"):
            bearer.read(written(tmp_path / "open", mode=mode), {})


def test_a_token_is_made_once_for_its_owner_alone(tmp_path: Path):
    before = os.umask(0)
    try:
        first = bearer.keep(tmp_path / "token")
    finally:
        os.umask(before)
    assert (tmp_path / "token").stat().st_mode & 0o777 == 0o600
    assert bearer.keep(tmp_path / "token") == first
    assert bearer.keep(tmp_path / "other") != first


def test_who_is_let_in():
    assert bearer.refused(None, "") is None
    assert bearer.refused(TOKEN, bearer.header(TOKEN)["Authorization"]) is None
    assert bearer.refused(TOKEN, f"bearer {TOKEN}") is None
    for none in ("", "Bearer", "Bearer ", TOKEN, f"Basic {TOKEN}"):
        assert bearer.refused(TOKEN, none) == "no_token"
    for wrong in (f"Bearer {TOKEN}x", f"Bearer {TOKEN[:-1]}", "Bearer ä"):
        assert bearer.refused(TOKEN, wrong) == "wrong_token"
    assert bearer.header(None) == {}


def test_a_crash_while_it_is_written_leaves_no_token(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def crash(_descriptor: int) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as broken:
        broken.setattr(os, "fsync", crash)
        with pytest.raises(KeyboardInterrupt):
            bearer.keep(tmp_path / "token")
    assert list(tmp_path.iterdir()) == []
    assert len(bearer.keep(tmp_path / "token")) >= bearer.SHORTEST
    assert [path.name for path in tmp_path.iterdir()] == ["token"]


def test_a_file_system_without_hard_links_will_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def refuse(*_args: object, **_options: object) -> None:
        raise PermissionError("operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    assert bearer.keep(tmp_path / "token") == bearer.keep(tmp_path / "token")
