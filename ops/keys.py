"""`rba keys`: the CURVE keys of a run's sockets, and whom they let in."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(help="Make keys for the run's sockets, and say whose keys are allowed.", no_args_is_help=True)

DEFAULT = Path("keys")
Folder = Annotated[Path, typer.Option("--keys", metavar="DIR", help="The folder of the keys, as in network.keys.")]
KEY_FIRST = {"ignore_unknown_options": True}
"""A public key may begin with a dash."""


@app.command()
def generate(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="The folder of the keys, as in network.keys.")] = DEFAULT,
    actor: Annotated[bool, typer.Option("--actor", help="Of a machine that runs actors only: no server key, nobody allowed.")] = False,
) -> None:
    """Make what is missing in a folder of keys; what is there stays."""
    from protocol.keyring import ACTOR, Keyring

    keys = Keyring(folder)
    for line in (keys.generate(ACTOR) if actor else keys.complete()) or ["nothing was missing"]:
        typer.echo(line)
    if actor:
        typer.echo(f"next: copy server.key from the learner's machine to {folder}, and there: rba keys allow '{keys.public(ACTOR)}'")


@app.command(context_settings=KEY_FIRST)
def allow(
    key: Annotated[str, typer.Argument(metavar="PUBLIC_KEY|FILE", help="40 characters in single quotes, or a file such as actor.key.")],
    name: Annotated[str | None, typer.Option(help="For people; by default the file's name, or the key's fingerprint.")] = None,
    keys: Folder = DEFAULT,
) -> None:
    """Let the holder of a key connect, also to a run that is under way."""
    from protocol.keyring import Keyring, fingerprint

    public, from_file = _public(key)
    chosen = name or from_file or fingerprint(public)
    Keyring(keys).allow(public, chosen)
    typer.echo(f"allowed {chosen} ({fingerprint(public)})")


@app.command(context_settings=KEY_FIRST)
def revoke(
    key: Annotated[str, typer.Argument(metavar="NAME|PUBLIC_KEY", help="As `rba keys list` shows it.")],
    keys: Folder = DEFAULT,
) -> None:
    """No longer let the holder of a key connect or be heard, also by a run that is under way."""
    from protocol.keyring import Keyring

    for name in Keyring(keys).revoke(key):
        typer.echo(f"revoked {name}")


@app.command("list")
def list_keys(keys: Folder = DEFAULT, as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False) -> None:
    """Show the machine's own public keys and those that are allowed."""
    import json

    from protocol.keyring import ACTOR, SERVER, Keyring, fingerprint

    ring = Keyring(keys)
    own = {name: ring.public(name) for name in (SERVER, ACTOR) if (ring.folder / f"{name}.key").is_file()}
    allowed = ring.allowed()
    if as_json:
        typer.echo(json.dumps({"folder": str(ring.folder.absolute()), "own": own, "allowed": allowed}))
        return
    for heading, listed in (("own", own), ("allowed", allowed)):
        for name, public in listed.items():
            typer.echo(f"{heading:8} {name:20} {fingerprint(public)}  {public}")
    if not own and not allowed:
        typer.echo(f"no keys in {ring.folder.absolute()}")


def _public(key: str) -> tuple[str, str]:
    """(public key, name of its file or "")."""
    from protocol.errors import UserError
    from protocol.keyring import checked, read_public

    path = Path(key)
    if path.is_file():
        if path.suffix == ".key_secret":
            raise UserError("this file holds a secret key", where=key, fix="give the .key file beside it, and keep this one where it is")
        return read_public(path), path.stem
    return checked(key, key), ""
