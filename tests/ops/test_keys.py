from __future__ import annotations

import json
import stat
import sys
from pathlib import Path

import pytest
import zmq
from typer.testing import CliRunner

from ops import cli
from ops.keys import app
from protocol.errors import UserError
from protocol.keyring import Keyring, fingerprint

PUBLIC = zmq.curve_keypair()[0].decode()


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def rba_keys(*arguments: str) -> str:
    """What `rba keys …` prints when it succeeds."""
    result = CliRunner().invoke(app, list(arguments))
    if result.exception is not None:
        raise result.exception
    return result.output


def test_keys_are_made_once(tmp_path: Path) -> None:
    assert "made" in rba_keys("generate")
    before = {path: path.read_bytes() for path in (tmp_path / "keys").rglob("*.*")}
    assert rba_keys("generate") == "nothing was missing\n"
    assert {path: path.read_bytes() for path in (tmp_path / "keys").rglob("*.*")} == before
    assert stat.S_IMODE((tmp_path / "keys" / "server.key_secret").stat().st_mode) == 0o600


def test_no_secret_is_ever_printed() -> None:
    said = [rba_keys("generate"), rba_keys("list"), rba_keys("list", "--json"), rba_keys("generate", "b", "--actor")]
    for keys, name in ((Keyring("keys"), "server"), (Keyring("keys"), "actor"), (Keyring("b"), "actor")):
        assert keys.pair(name).secret.decode() not in "".join(said)


def test_a_key_comes_and_goes() -> None:
    rba_keys("generate")
    assert rba_keys("allow", PUBLIC, "--name", "b") == f"allowed b ({fingerprint(PUBLIC)})\n"
    assert json.loads(rba_keys("list", "--json"))["allowed"]["b"] == PUBLIC
    assert PUBLIC in rba_keys("list")
    assert rba_keys("revoke", "b") == "revoked b\n"
    assert "b" not in json.loads(rba_keys("list", "--json"))["allowed"]
    rba_keys("allow", PUBLIC)
    assert rba_keys("revoke", PUBLIC) == f"revoked {fingerprint(PUBLIC)}\n"


def test_a_key_may_begin_with_a_dash() -> None:
    dashed = "-" + PUBLIC[1:]
    rba_keys("allow", dashed, "--name", "b")
    assert Keyring("keys").allowed() == {"b": dashed}
    rba_keys("revoke", dashed)
    assert Keyring("keys").allowed() == {}


def test_the_key_of_another_machine_comes_as_a_file(tmp_path: Path) -> None:
    rba_keys("generate")
    said = rba_keys("generate", "b", "--actor")
    assert sorted(path.name for path in (tmp_path / "b").iterdir()) == [".gitignore", "actor.key", "actor.key_secret"]
    assert f"'{Keyring('b').public('actor')}'" in said
    with pytest.raises(UserError, match="another key's"):
        rba_keys("allow", "b/actor.key")
    (tmp_path / "b" / "actor.key").rename(tmp_path / "node-b.key")
    assert rba_keys("allow", "node-b.key").startswith("allowed node-b")


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["allow", "nonsense"], "not a public key"),
        (["allow", "keys/actor.key_secret"], "holds a secret key"),
        (["allow", PUBLIC, "--name", "../b"], "cannot name a key"),
        (["revoke", "nobody"], "no allowed key nobody"),
    ],
)
def test_the_users_mistake_ends_with_2_and_says_what_to_do(
    arguments: list[str], told: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    rba_keys("generate")
    monkeypatch.setattr(sys, "argv", ["rba", "keys", *arguments])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 2
    error = capsys.readouterr().err
    assert told in error
    assert error.startswith("error: ")


def test_a_secret_that_others_may_read_ends_with_2(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    rba_keys("generate")
    (tmp_path / "keys" / "server.key_secret").chmod(0o644)
    monkeypatch.setattr(sys, "argv", ["rba", "keys", "generate"])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 2
    assert "others may read the secret key (mode 0644); `chmod" in capsys.readouterr().err


def test_an_empty_folder_says_so(tmp_path: Path) -> None:
    assert str(tmp_path / "keys") in rba_keys("list")
