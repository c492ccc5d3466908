from __future__ import annotations

import os
import stat
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import zmq
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from protocol import keyring
from protocol.errors import UserError
from protocol.keyring import AllowList, Keyring, checked, fingerprint


def key() -> str:
    return zmq.curve_keypair()[0].decode()


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.fixture
def keys(tmp_path: Path) -> Keyring:
    made = Keyring(tmp_path / "keys")
    made.complete()
    return made


def test_a_new_folder_has_all_that_a_run_needs(tmp_path: Path) -> None:
    keys = Keyring(tmp_path / "deep" / "keys")
    done = keys.complete()
    assert [line.split()[0] for line in done] == ["made"] * 4 + ["allowed"]
    keys.check()
    assert keys.client().server == keys.pair("server").public
    assert keys.neighbour().server == keys.pair("actor").public
    assert keys.allowed() == {"actor": keys.pair("actor").public}
    assert keys.complete() == []


@pytest.mark.parametrize("umask", [0o000, 0o022])
def test_secrets_are_for_their_owner_alone_whatever_the_umask(tmp_path: Path, umask: int) -> None:
    keys = Keyring(tmp_path / "keys")
    before = os.umask(umask)
    try:
        keys.complete()
    finally:
        os.umask(before)
    assert mode(keys.folder) == mode(keys.allowed_folder) == 0o700
    assert {mode(path) for path in keys.folder.glob("*.key_secret")} == {0o600}
    assert sorted(path.name for path in keys.folder.iterdir()) == [
        ".gitignore",
        "actor.key",
        "actor.key_secret",
        "allowed",
        "server.key",
        "server.key_secret",
    ]


@pytest.mark.parametrize("bits", [0o640, 0o604, 0o660, 0o622])
def test_a_secret_that_others_may_read_or_write_is_refused(keys: Keyring, bits: int) -> None:
    (keys.folder / "server.key_secret").chmod(bits)
    with pytest.raises(UserError, match="others may read the secret key") as caught:
        keys.pair("server")
    assert f"{bits:04o}" in caught.value.what
    assert caught.value.fix.startswith("`chmod")
    keys.pair("actor")


def test_a_folder_that_others_may_write_into_is_refused(keys: Keyring) -> None:
    keys.folder.chmod(0o770)
    with pytest.raises(UserError, match="others may write"):
        keys.pair("actor")
    keys.folder.chmod(0o755)
    keys.pair("actor")


def test_a_secret_never_shows(keys: Keyring) -> None:
    secret = keys.pair("actor").secret.decode()
    assert secret not in repr(keys.client())
    assert secret not in f"{keys.pair('actor')}"


def test_what_zeromq_reads_is_what_was_written(keys: Keyring) -> None:
    public, secret = zmq.auth.load_certificate(keys.folder / "actor.key_secret")
    assert (public.decode(), secret) == (keys.pair("actor").public, keys.pair("actor").secret)
    zmq.auth.create_certificates(keys.folder, "other")
    (keys.folder / "other.key_secret").chmod(0o600)
    assert keys.pair("other").public == keys.public("other")


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (lambda text: "", "no key can be read"),
        (lambda text: text.replace("secret-key", "secret"), "no secret key"),
        (lambda text: text.replace('public-key = "', 'public-key = "x'), "not a public key"),
        (lambda text: "\n".join(line if "public" not in line else f'    public-key = "{key()}"' for line in text.splitlines()), "belong"),
    ],
)
def test_a_damaged_secret_is_told(keys: Keyring, damage: Callable[[str], str], told: str) -> None:
    path = keys.folder / "actor.key_secret"
    path.write_text(damage(path.read_text()))
    with pytest.raises(UserError, match=told) as caught:
        keys.pair("actor")
    assert caught.value.where == str(path)


def test_what_is_missing_is_told_with_what_to_do(tmp_path: Path, keys: Keyring) -> None:
    with pytest.raises(UserError, match="rba keys generate"):
        Keyring(tmp_path / "nowhere").pair("server")
    (keys.folder / "server.key").unlink()
    with pytest.raises(UserError, match="copy it from the learner's machine"):
        keys.client()
    assert keys.complete() == [f"made {keys.folder / 'server.key'}"]
    keys.check()


def test_no_server_key_is_made_over_the_learners_one(tmp_path: Path, keys: Keyring) -> None:
    away = Keyring(tmp_path / "away")
    away.generate("actor")
    (away.folder / "server.key").write_bytes((keys.folder / "server.key").read_bytes())
    assert away.client().server == keys.pair("server").public
    with pytest.raises(UserError, match="an actor's machine"):
        away.complete()
    assert away.client().server == keys.pair("server").public


def test_a_revoked_key_of_the_machines_own_stays_revoked(keys: Keyring) -> None:
    keys.revoke("actor")
    assert keys.complete() == []
    with pytest.raises(UserError, match="not allowed") as caught:
        keys.check()
    assert "rba keys allow" in caught.value.fix


def test_a_foreign_server_key_is_found_before_anybody_waits_for_it(keys: Keyring) -> None:
    path = keys.folder / "server.key"
    path.write_text(path.read_text().replace(keys.public("server"), key()))
    with pytest.raises(UserError, match="not the public key"):
        keys.check()


def test_two_launches_at_once_make_one_pair(tmp_path: Path) -> None:
    barrier = threading.Barrier(8)
    seen: list[str] = []

    def launch() -> None:
        mine = Keyring(tmp_path / "keys")
        barrier.wait()
        mine.complete()
        mine.check()
        seen.append(mine.client().server + mine.pair("actor").public)

    threads = [threading.Thread(target=launch) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(seen) == 8
    assert len(set(seen)) == 1
    assert Keyring(tmp_path / "keys").allowed() == {"actor": Keyring(tmp_path / "keys").pair("actor").public}


def test_the_second_launch_waits_until_the_first_ones_key_is_allowed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made, go_on = threading.Event(), threading.Event()
    allow = Keyring.allow

    def slowly(self: Keyring, public: str, name: str) -> None:
        made.set()
        assert go_on.wait(60)
        allow(self, public, name)

    monkeypatch.setattr(Keyring, "allow", slowly)
    sound: list[str] = []

    def launch() -> None:
        mine = Keyring(tmp_path / "keys")
        mine.complete()
        mine.check()
        sound.append(mine.pair("actor").public)

    first, second = threading.Thread(target=launch), threading.Thread(target=launch)
    first.start()
    assert made.wait(60)
    second.start()
    second.join(0.3)  # as long as it waits, it cannot find its key missing from the list
    go_on.set()
    for thread in (first, second):
        thread.join()
    assert len(sound) == 2


# --- the allow-list ---


def test_a_key_is_revoked_under_every_name(keys: Keyring) -> None:
    mine = key()
    for name in ("b", "c"):
        keys.allow(mine, name)
    keys.allow(mine, "b")  # again is fine
    assert keys.revoke("c") == ["b", "c"]
    with pytest.raises(UserError, match="no allowed key c"):
        keys.revoke("c")
    keys.allow(mine, "c")
    assert keys.revoke(mine) == ["c"]


def test_a_name_means_one_key(keys: Keyring) -> None:
    with pytest.raises(UserError, match="another key's"):
        keys.allow(key(), "actor")


@pytest.mark.parametrize("name", ["", ".", "../actor", "a/b", "-x", "a b", "x" * 65])
def test_a_name_stays_inside_the_folder(keys: Keyring, name: str) -> None:
    with pytest.raises(UserError):
        keys.allow(key(), name)
    with pytest.raises(UserError):
        keys.revoke(name)
    assert keys.allowed().keys() == {"actor"}


@given(st.text(max_size=60))
def test_only_keys_are_keys(text: str) -> None:
    if len(text) != 40:
        with pytest.raises(UserError):
            checked(text, "here")


@pytest.mark.parametrize("text", ["#" * 40, "~" * 40, "\\" * 40, "ä" * 40, " " * 40])
def test_forty_characters_are_not_enough(text: str) -> None:
    with pytest.raises(UserError, match="not a public key"):
        checked(text, "here")


def test_a_file_without_a_key_allows_nobody_and_harms_nobody(keys: Keyring) -> None:
    (keys.allowed_folder / "junk.key").write_bytes(b"\xff\x00public-key")
    (keys.allowed_folder / "dir.key").mkdir()
    allowed = AllowList(keys)
    assert allowed.name_of(keys.pair("actor").public) == "actor"
    assert keys.revoke("junk") == ["junk"]


class Clock:
    now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def test_a_file_that_is_written_over_changes_whom_it_allows(keys: Keyring) -> None:
    clock, old, new = Clock(), key(), key()
    allowed = AllowList(keys, clock)
    keys.allow(old, "b")
    assert allowed.name_of(old) == "b"
    path = keys.allowed_folder / "b.key"
    path.write_text(path.read_text().replace(old, new))
    clock.now_s += 2 * keyring.LOOK_EVERY_S
    assert (allowed.name_of(old), allowed.name_of(new)) == (None, "b")


def test_a_list_that_cannot_be_read_allows_nobody(keys: Keyring) -> None:
    clock, mine = Clock(), keys.pair("actor").public
    allowed = AllowList(keys, clock)
    assert allowed.name_of(mine) == "actor"
    keys.allowed_folder.rename(keys.folder / "away")
    clock.now_s += 2 * keyring.LOOK_EVERY_S
    assert allowed.name_of(mine) is None
    (keys.folder / "away").rename(keys.allowed_folder)
    clock.now_s += 2 * keyring.LOOK_EVERY_S
    assert allowed.name_of(mine) == "actor"


POOL = [key() for _ in range(4)]


def test_the_list_follows_its_folder_whatever_happens(tmp_path_factory: pytest.TempPathFactory) -> None:
    class Following(RuleBasedStateMachine):
        """Against a plain dictionary of who is allowed."""

        @initialize()
        def start(self) -> None:
            self.keys, self.clock = Keyring(tmp_path_factory.mktemp("keys")), Clock()
            self.allowed, self.model = AllowList(self.keys, self.clock), dict[str, str]()

        @rule(number=st.integers(0, 3), name=st.sampled_from("abcd"))
        def allow(self, number: int, name: str) -> None:
            if self.model.get(name, POOL[number]) != POOL[number]:
                with pytest.raises(UserError):
                    self.keys.allow(POOL[number], name)
            else:
                self.keys.allow(POOL[number], name)
                self.model[name] = POOL[number]

        @rule(number=st.integers(0, 3))
        def revoke(self, number: int) -> None:
            if POOL[number] not in self.model.values():
                with pytest.raises(UserError):
                    self.keys.revoke(POOL[number])
            else:
                self.keys.revoke(POOL[number])
                self.model = {name: public for name, public in self.model.items() if public != POOL[number]}

        @rule()
        def look(self) -> None:
            self.allowed.name_of(POOL[0])

        @invariant()
        def it_is_known_after_a_look(self) -> None:
            if hasattr(self, "clock"):
                self.clock.now_s += 2 * keyring.LOOK_EVERY_S
                assert {public for public in POOL if self.allowed.name_of(public) is not None} == set(self.model.values())

    run_state_machine_as_test(Following)


def test_fingerprints_differ() -> None:
    assert fingerprint(POOL[0]) == fingerprint(POOL[0]) != fingerprint(POOL[1])
