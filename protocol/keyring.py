"""A folder of CURVE keys in ZeroMQ's certificate layout: who listens, who connects, and who is allowed.

    server.key_secret  server.key      the learner's machine: the pair of every socket that others connect to
    actor.key_secret   actor.key       each machine: the pair that its fetcher and its rollout actors connect with
    allowed/NAME.key                   the learner's machine: public keys that may connect; read again when they change

Secrets are files of mode 0600. `zmq.auth` reads the layout; it does not write here, since its secret files are born readable to all.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import re
import secrets
import stat
import struct
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import zmq
import zmq.auth
from zmq.utils import z85

from protocol.errors import UserError

SERVER, ACTOR = "server", "actor"
KEY_BYTES = 32
LOOK_EVERY_S = 0.2
"""A change of the allow-list takes effect within this time."""
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


@dataclass(frozen=True)
class KeyPair:
    """Both in Z85, 40 characters. The secret never shows in a message or a traceback."""

    public: str
    secret: bytes = field(repr=False)


@dataclass(frozen=True)
class ClientKeys:
    """What a connecting socket needs: its own pair, and the public key of the one that it takes for the server."""

    own: KeyPair
    server: str


class Keyring:
    """The keys of one folder. Every method raises `UserError` for what is missing, damaged, or open to others."""

    def __init__(self, folder: Path | str) -> None:
        self.folder = Path(folder)

    @property
    def allowed_folder(self) -> Path:
        """Where the allowed public keys lie."""
        return self.folder / "allowed"

    def pair(self, name: str) -> KeyPair:
        """The pair `server` or `actor`, once its files are found private and sound."""
        path = self._secret_path(name)
        if not path.is_file():
            raise UserError(f"there is no {path.name}", where=str(self.folder), fix="make keys with `rba keys generate`, or copy it there")
        _refuse_open(self.folder, stat.S_IWGRP | stat.S_IWOTH, "others may write into the folder of the keys", "go-w")
        _refuse_open(path, stat.S_IRWXG | stat.S_IRWXO, "others may read the secret key", "go=")
        public, secret = _read(path)
        if secret is None:
            raise UserError("there is no secret key in it", where=str(path), fix="copy it again, or make new keys")
        if public != zmq.curve_public(secret).decode():
            raise UserError("its public key does not belong to its secret key", where=str(path), fix="copy it again, or make new keys")
        return KeyPair(public, secret)

    def public(self, name: str) -> str:
        """The public key `server` or `actor`."""
        path = self._public_path(name)
        if not path.is_file():
            fix = "copy it from the learner's machine" if name == SERVER else "make keys with `rba keys generate`"
            raise UserError(f"there is no {path.name}", where=str(self.folder), fix=fix)
        return read_public(path)

    def client(self) -> ClientKeys:
        """For sockets that connect to the learner's machine."""
        return ClientKeys(self.pair(ACTOR), self.public(SERVER))

    def neighbour(self) -> ClientKeys:
        """For sockets that connect to the fetcher of their own machine, whose socket has the machine's own keys."""
        own = self.pair(ACTOR)
        return ClientKeys(own, own.public)

    def complete(self) -> list[str]:
        """Make what a learner's machine lacks and allow its own actors; a line for each thing done. What is there stays as it is.

        An actor's key that is no longer allowed stays so: whoever revoked it meant it.
        """
        if self._public_path(SERVER).exists() and not self._secret_path(SERVER).exists():
            fix = "launch on the machine that has server.key_secret, or give network.keys another folder"
            raise UserError(
                "server.key is there without its secret: these are the keys of an actor's machine", where=str(self.folder), fix=fix
            )
        with _alone_in(self.folder):
            done = self.generate(SERVER)
            new = not self._secret_path(ACTOR).exists()
            done += self.generate(ACTOR)
            if new:
                self.allow(self.public(ACTOR), ACTOR)
                done.append(f"allowed {ACTOR}")
            _private_folder(self.allowed_folder)
        return done

    def check(self) -> None:
        """Raise `UserError` unless a run can start here: both pairs sound, server.key the server's, and its own actors allowed."""
        if self.public(SERVER) != self.pair(SERVER).public:
            raise UserError("server.key is not the public key of server.key_secret", where=str(self.folder), fix="remove server.key")
        own = self.pair(ACTOR).public
        if own not in self.allowed().values():
            fix = f"`rba keys allow {self._public_path(ACTOR)} --keys {self.folder}`, or remove both actor files to have new ones made"
            raise UserError("the key of this machine's own actors is not allowed", where=str(self.allowed_folder), fix=fix)

    def generate(self, name: str) -> list[str]:
        """Make the pair `server` or `actor` where it is missing, and look at what is there; a line for each file made."""
        _private_folder(self.folder)
        ignored = self.folder / ".gitignore"
        if not ignored.exists():
            _write(ignored, "*\n", 0o600)
        secret_path, public_path, made = self._secret_path(name), self._public_path(name), []
        public, secret = (key.decode() for key in zmq.curve_keypair())
        if not secret_path.exists() and _write(secret_path, _certificate("**Secret**", public, secret), 0o600):
            made.append(f"made {secret_path}")
        if not public_path.exists() and _write(public_path, _certificate("Public", self.pair(name).public), 0o644):
            made.append(f"made {public_path}")
        self.pair(name)
        return made

    def allow(self, public: str, name: str) -> None:
        """Let the holder of that key connect, from now on. `name` is for people and must be free."""
        if not _NAME.fullmatch(name):
            fix = "give one of letters, digits, dots, dashes and underscores with --name"
            raise UserError(f"{name!r} cannot name a key", where="rba keys allow", fix=fix)
        _private_folder(self.allowed_folder)
        path = self.allowed_folder / f"{name}.key"
        if not _write(path, _certificate("Public", checked(public, "the key")), 0o644) and read_public(path) != public:
            raise UserError(f"the name {name} is another key's", where=str(path), fix="give another with --name, or revoke that one first")

    def revoke(self, name_or_key: str) -> list[str]:
        """Remove a key under every name that it has; these names. Raises `UserError` when none is meant."""
        known = self.allowed()
        key = known.get(name_or_key, name_or_key)
        names = [name for name, public in known.items() if public == key]
        # A file that cannot be read allows nobody; it goes by its name.
        if not names and _NAME.fullmatch(name_or_key) and (self.allowed_folder / f"{name_or_key}.key").is_file():
            names = [name_or_key]
        if not names:
            raise UserError(f"no allowed key {name_or_key}", where=str(self.allowed_folder), fix="see `rba keys list`")
        for name in names:
            (self.allowed_folder / f"{name}.key").unlink(missing_ok=True)
        return names

    def allowed(self) -> dict[str, str]:
        """Allowed public keys by name. Files that hold none are left out."""
        found = {}
        for path in sorted(self.allowed_folder.glob("*.key")):
            with contextlib.suppress(UserError):
                found[path.stem] = read_public(path)
        return found

    def _secret_path(self, name: str) -> Path:
        return self.folder / f"{name}.key_secret"

    def _public_path(self, name: str) -> Path:
        return self.folder / f"{name}.key"


class AllowList:
    """The allowed keys of a folder as they are now; one thread-safe look-up. What cannot be read allows nobody."""

    def __init__(self, keyring: Keyring, clock: Callable[[], float] = time.monotonic) -> None:
        self._keyring, self._clock = keyring, clock
        self._seen: dict[str, bytes] | None = None
        self._looked_s = float("-inf")
        self._names: dict[str, str] = {}

    def name_of(self, public: str) -> str | None:
        """The name that `public` is allowed under; None when it is not."""
        now_s = self._clock()
        if now_s - self._looked_s >= LOOK_EVERY_S:
            self._look()
            self._looked_s = now_s
        return self._names.get(public)

    def _look(self) -> None:
        try:
            # By content: a file that is replaced within a clock tick may keep its time, its size and even its inode.
            seen = dict(_contents(self._keyring.allowed_folder))
            if seen != self._seen:
                self._names = {public: name for name, public in self._keyring.allowed().items()}
                self._seen = seen
        except OSError:
            self._names, self._seen = {}, None


def fingerprint(public: str) -> str:
    """Short enough to compare by eye."""
    return hashlib.sha256(public.encode()).hexdigest()[:16]


def checked(public: str, where: str) -> str:
    """`public` if it is a public key in Z85. Raises `UserError`."""
    try:
        if len(z85.decode(public)) == KEY_BYTES:
            return public
    except (ValueError, KeyError, struct.error):
        pass  # said below
    raise UserError("not a public key", where=where, fix="give the 40 characters of one (Z85), or a file that `rba keys generate` made")


def read_public(path: Path) -> str:
    """The public key of a certificate file. Raises `UserError`."""
    return _read(path)[0]


def _read(path: Path) -> tuple[str, bytes | None]:
    """Public key, and the secret one where there is one. Raises `UserError`."""
    try:
        public, secret = zmq.auth.load_certificate(path)
        return checked(public.decode("ascii"), str(path)), secret
    except (OSError, ValueError, IndexError) as error:
        raise UserError(f"no key can be read from it: {error}", where=str(path), fix="copy it again, or make new keys") from None


def _certificate(what: str, public: str, secret: str = "") -> str:
    lines = [f"#   ZeroMQ CURVE {what} Certificate", "metadata", "curve", f'    public-key = "{public}"']
    return "\n".join([*lines, *([f'    secret-key = "{secret}"'] if secret else []), ""])


def _write(path: Path, text: str, mode: int) -> bool:
    """Appears whole and with its mode; False when it is there already."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "w", encoding="ascii") as file:
            file.write(text)
        os.link(temporary, path)
    except FileExistsError:
        return False
    except OSError as error:
        raise UserError(f"it cannot be written: {error.strerror}", where=str(path), fix="choose a folder of your own") from None
    finally:
        temporary.unlink(missing_ok=True)
    return True


def _private_folder(folder: Path) -> None:
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"it cannot be made: {error.strerror}", where=str(folder), fix="choose a folder of your own") from None


@contextlib.contextmanager
def _alone_in(folder: Path) -> Iterator[None]:
    """Two launches at once make one pair, and the second finds it allowed."""
    _private_folder(folder)
    opened = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(opened, fcntl.LOCK_EX)
        yield
    finally:
        os.close(opened)


def _refuse_open(path: Path, bits: int, what: str, fix: str) -> None:
    mode = stat.S_IMODE(path.stat().st_mode)
    if mode & bits:
        raise UserError(f"{what} (mode {mode:04o})", where=str(path), fix=f"`chmod {fix} {path}`")


def _contents(folder: Path) -> Iterator[tuple[str, bytes]]:
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.endswith(".key"):
                with contextlib.suppress(OSError):  # it went meanwhile, or is no file: it allows nobody
                    yield entry.name, Path(entry.path).read_bytes()
