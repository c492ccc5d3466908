from __future__ import annotations

from pathlib import Path

import pytest

from configs import loader
from ops import preflight, tokens
from protocol.errors import UserError

FAR = ["ray.address=10.0.0.1:6379", "network.bind=0.0.0.0"]


@pytest.mark.parametrize(
    ("overrides", "needed"),
    [
        ([], False),
        (["ray.address=auto"], False),
        ([*FAR, "network.keys=keys"], True),
        ([*FAR, "network.insecure=true"], False),
    ],
)
def test_a_cluster_that_others_reach_needs_a_token(overrides: list[str], needed: bool) -> None:
    assert tokens.needs_token(loader.load("quickstart", overrides)) == needed


@pytest.mark.parametrize("recipe", sorted(loader.recipes()))
def test_every_recipe_of_several_machines_needs_keys_and_a_token(recipe: str) -> None:
    config = loader.load(recipe)
    several = config.ray.address is not None
    assert (config.network.leaves_the_machine, tokens.needs_token(config), config.network.keys is not None) == (several,) * 3
    assert not config.network.insecure


def test_where_ray_finds_a_token(tmp_path: Path) -> None:
    home = {"HOME": str(tmp_path)}
    assert not tokens.token_found(home)
    assert tokens.token_found({**home, "RAY_AUTH_TOKEN": "secret"})
    file = tmp_path / ".ray" / "auth_token"
    file.parent.mkdir()
    file.write_text("\n")
    assert not tokens.token_found(home)
    file.write_text("secret\n")
    assert tokens.token_found(home)
    assert not tokens.token_found({**home, "RAY_AUTH_TOKEN_PATH": str(tmp_path / "gone")}), "Ray looks no further"


def test_a_missing_token_is_told_with_what_to_do(tmp_path: Path) -> None:
    config = loader.load("quickstart", [*FAR, "network.keys=keys"])
    with pytest.raises(UserError, match="no token") as caught:
        preflight._check_token(config, {"HOME": str(tmp_path)})
    assert "ray get-auth-token --generate" in caught.value.fix
    assert "RAY_AUTH_MODE=token" in caught.value.fix
    preflight._check_token(config, {"RAY_AUTH_TOKEN": "secret"})


def test_the_environment_before_ray_is_imported() -> None:
    own, other = (tokens.environment_of(None, needed=False) for _ in range(2))
    assert own.keys() == {"RAY_AUTH_MODE", "RAY_AUTH_TOKEN"}
    assert own["RAY_AUTH_MODE"] == "token"
    assert len(own["RAY_AUTH_TOKEN"]) == 64
    assert own != other
    assert tokens.environment_of("10.0.0.1:6379", needed=True) == {"RAY_AUTH_MODE": "token"}
    assert tokens.environment_of("auto", needed=False) == {}


def test_ray_reads_these_names() -> None:
    """Against the installed Ray, whose names these are."""
    import ray._private.authentication.authentication_token_setup as setup
    from ray._private import authentication_test_utils

    assert setup.AUTH_MODE_ENV_VAR == tokens.MODE
    assert set(authentication_test_utils._AUTH_ENV_VARS) == {tokens.MODE, tokens.TOKEN, tokens.TOKEN_PATH}
    assert setup._get_default_token_path() == Path.home() / ".ray" / "auth_token"
