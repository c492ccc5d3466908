from __future__ import annotations

import sys
from pathlib import Path

import pytest

from ops import cli

LOCAL = ["-o", "model.path=nowhere", "-o", "rewards.model=nowhere-either"]


def rba(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["rba", *arguments])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    return int(ended.value.code or 0)


def test_a_dry_run_shows_the_plan_and_starts_nothing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    assert rba(monkeypatch, "launch", "quickstart", "--dry-run", "-o", "rollout.actors=2", *LOCAL) == 0
    shown = capsys.readouterr().out
    assert "2 × (0.5 CPU)" in shown
    assert "budget_groups" in shown
    assert "nothing was started" in shown
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "recipe", ["qwen2-audio-7b-group-1x8", "qwen2-audio-7b-group-4x8", "qwen2-audio-7b-single-1x8", "qwen2-audio-7b-single-4x8"]
)
def test_the_large_recipes_are_planned_without_a_download(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], recipe: str
) -> None:
    assert rba(monkeypatch, "launch", recipe, "--dry-run") == 0
    shown = capsys.readouterr().out
    assert "8.40 B parameters" in shown
    assert "ZeRO 3" in shown
    assert ("ArmoRM" in shown or "1 GPU)   scores" in shown) == ("group" in recipe)


def test_the_users_mistake_ends_with_2_and_no_traceback(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert rba(monkeypatch, "config", "show", "quickstart", "-o", "learner.stepz=1") == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert "learner.steps" in error
    assert "Traceback" not in error


@pytest.mark.parametrize(
    ("url", "what"), [("nothing://bucket", "Protocol not known"), ("s3://bucket/folder", "library for s3:// is missing")]
)
def test_a_place_for_copies_that_cannot_be_used_starts_nothing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path, url: str, what: str
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "s3fs", None)
    assert rba(monkeypatch, "launch", "quickstart", "-o", f"learner.checkpoint_copies={url}") == 2
    error = capsys.readouterr().err
    assert f"learner.checkpoint_copies: {url}: " in error
    assert what in error
    assert "Traceback" not in error
    assert list(tmp_path.iterdir()) == []


def test_a_fault_of_the_system_ends_with_1_and_names_the_traceback(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("configs.loader.load", lambda *_, **__: 1 / 0)
    assert rba(monkeypatch, "config", "show", "quickstart") == 1
    error = capsys.readouterr().err
    assert "Traceback" not in error
    log = Path(error.strip().rpartition(" ")[2])
    assert "ZeroDivisionError" in log.read_text()
    log.unlink()


def test_config_show_prints_every_default(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert rba(monkeypatch, "config", "show", "quickstart", "-o", "learner.steps=7") == 0
    shown = capsys.readouterr().out
    assert "steps: 7" in shown
    assert "heartbeat_s: 2.0" in shown


def test_config_schema_describes_every_key(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert rba(monkeypatch, "config", "schema") == 0
    shown = capsys.readouterr().out
    assert "learner.max_policy_lag (int; default 2)" in shown
    assert "Pairs older than this many steps are dropped" in shown


def test_a_run_that_is_not_there(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    assert rba(monkeypatch, "status", "nowhere") == 2
    assert "no run nowhere" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--scorer", "bluu"], "--scorer bluu: `rewards.scorer` is 'bluu', but must be 'seqcls', 'armorm'"),
        (["--scorer", "bluu"], "did you mean `bleu`?"),
        (["--scorer", "reward_model"], "write seqcls"),
        ([], "rewards.scorer=seqcls needs rewards.model"),
        (["--scorer", "seqcls", "--model", "/nowhere/at/all"], "rewards.model: /nowhere/at/all"),
        (["--scorer", "judge", "-o", "rewards.judge.model=m"], "rewards.scorer=judge needs rewards.judge.url"),
        (["--scorer", "qa", "-o", "rewards.qa.skore=exact"], "did you mean `rewards.qa.score`?"),
        (["--scorer", "python", "-o", "rewards.python.function=statistics:meen"], "did you mean mean?"),
        (["quickstart", "--scorer", "armorm", "-o", "rewards.model=null"], "rewards.scorer=armorm needs rewards.model"),
        (["--scorer", "combination"], "rewards.scorer=combination needs parts of a weight"),
        (["--scorer", "combination", "-o", "rewards.urls=[http://127.0.0.1:1]"], "the combination has no parts of a weight"),
        (["--scorer", "bleu", "--batch-items", "0"], "--batch-items 0: `rewards.batch_items` is 0"),
    ],
)
def test_serve_rewards_tells_mistakes_as_they_were_typed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], arguments: list[str], words: str
) -> None:
    assert rba(monkeypatch, "serve-rewards", *arguments) == 2
    assert words in capsys.readouterr().err


def test_serve_rewards_names_the_option_that_is_wrong(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    for option, value in (("--timeout-s", "0"), ("--batch-tokens", "0")):
        assert rba(monkeypatch, "serve-rewards", "--scorer", "bleu", option, value) == 2
        assert option in capsys.readouterr().err


def test_serve_rewards_off_loopback_wants_a_token(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.delenv("RBA_REWARDS_TOKEN", raising=False)
    assert rba(monkeypatch, "serve-rewards", "--scorer", "bleu", "--bind", "192.0.2.1") == 2
    assert "--token-file" in capsys.readouterr().err
    token = tmp_path / "token"
    token.touch(mode=0o600)
    token.write_text("a-token-of-some-length")
    assert rba(monkeypatch, "serve-rewards", "--scorer", "bleu", "--bind", "192.0.2.1", "--token-file", str(token)) == 2
    assert "cannot listen on 192.0.2.1" in capsys.readouterr().err


def test_the_doctor_finds_a_folder_in_front_of_ours(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from ops import doctor

    (tmp_path / "benchmarks").mkdir()
    (tmp_path / "benchmarks" / "__init__.py").write_text("")
    monkeypatch.delitem(sys.modules, "benchmarks", raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    bad = [finding for finding in doctor.examine() if not finding.ok]
    assert [finding.what for finding in bad] == ["package benchmarks"]
