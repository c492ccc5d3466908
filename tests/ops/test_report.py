from __future__ import annotations

import base64
import io
from html.parser import HTMLParser
from pathlib import Path

import pytest
import soundfile

from configs import loader
from ops import report, rundir, summary
from ops.curves import Series, line_chart, ticks
from ops.orders import Finish, State
from ops.rundir import RunDir
from protocol.errors import UserError
from tests.ops import synthetic

STEPS = 40
VOID = {"meta", "link", "br", "img", "input", "hr"}


class Page(HTMLParser):
    """Checks that every element is closed in its order, and collects what the page plays and refers to."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.audio: list[str] = []
        self.links: list[str] = []
        self.charts = 0
        self.text: list[str] = []
        self.feed(text)
        assert not self.open, f"never closed: {self.open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in VOID:
            self.open.append(tag)
        self.charts += tag == "svg"
        given = dict(attrs)
        if tag == "audio":
            self.audio.append(given["src"] or "")
        self.links += [value or "" for name, value in attrs if name in {"src", "href"}]

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        pass

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data.strip())


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    manifest = synthetic.data_set(tmp_path / "data")
    config = loader.load("quickstart", [f"data.train={manifest}", f"run.directory={tmp_path / 'runs'}"])
    made = rundir.create(config, None)
    rundir.write_config(made, config, {"versions": {"ray": "2.60.0"}, "commit": "abc"})
    synthetic.leave(made.path, manifest, STEPS)
    content = summary.compose(
        made, config, Finish(State.COMPLETED, "done"), {"learner-0": synthetic.closing(STEPS), "rollout-0": {"idle": 0.25}}, {}, 150.04
    )
    summary.write(made, content)
    return made


def test_the_page_is_well_formed_and_refers_to_nothing_outside(run: RunDir) -> None:
    page = Page(report.write(run).read_text())
    assert page.charts == 9
    assert all(link.startswith("data:") for link in page.links)


def test_every_voice_can_be_heard_on_the_page(run: RunDir) -> None:
    page = Page(report.render(run))
    assert len(page.audio) == 2 * len(synthetic.VOICES)
    for source in page.audio:
        samples, rate = soundfile.read(io.BytesIO(base64.b64decode(source.removeprefix("data:audio/flac;base64,"))))
        assert (rate, len(samples)) == (16000, 8000)


def test_what_models_and_data_say_is_text_and_not_markup(run: RunDir) -> None:
    page = report.render(run)
    assert "what is &lt;0&gt; &amp; more" in page
    assert "<b>en-us</b>" not in page


def test_before_and_after_stand_beside_each_other(run: RunDir) -> None:
    text = " ".join(Page(report.render(run)).text)
    assert "+15.0 points" in text
    assert "from 60.0%" in text
    assert "chosen" in text
    assert "rejected" in text


def test_a_page_without_its_audio_says_so(run: RunDir) -> None:
    for file in run.path.parent.parent.glob("data/audio/*/*.flac"):
        file.unlink()
    page = Page(report.render(run))
    assert page.audio == []
    assert page.text.count("not embedded") == 2 * len(synthetic.VOICES)


def test_an_unfinished_run_has_a_page_too(run: RunDir) -> None:
    run.summary.unlink()
    with run.events.open("a") as events:
        events.write('{"event": "step", "torn')
    assert "unfinished" in report.render(run)


def test_a_run_without_events_has_none(run: RunDir) -> None:
    run.events.unlink()
    with pytest.raises(UserError, match="no events"):
        report.write(run)


def test_the_summary_has_the_promised_keys(run: RunDir) -> None:
    import json

    content = json.loads(run.summary.read_text())
    assert content["status"] == "completed"
    assert content["ledger"] == {"received": 30, "unique": 28, "duplicate": 2, "rejected": 0, "trained": 24, "dropped": 4, "queued": 0}
    assert content["idle"] == {"learner": 0.125, "actors": 0.25}
    assert content["policy_lag"] == {"mean": 1.5, "p95": 3, "max": 4}
    assert content["policy_version"] == {"lineage": 0, "step": STEPS}
    assert content["evaluation"]["before"] == {"accuracy": 0.6, "bleu": 70.6, "consistency": 0.8, "reward": 0.6}
    assert content["evaluation"]["after"]["accuracy"] == 0.75
    assert (content["zero_stage"], content["pushes"], content["learner_steps"], content["wall_seconds"]) == (3, 4, STEPS, 150.0)
    assert content["engine"].startswith("vllm 0.32")


def test_a_learner_that_died_is_summed_up_from_its_events(run: RunDir) -> None:
    config = loader.load(run.config)
    status = {"policy_version": "0.35", "idle": 0.5, "nonfinite_steps": 9, "rollbacks": 2, "policy_lag": {"mean": 1.0, "p95": 1, "max": 1}}
    content = summary.compose(run, config, Finish(State.FAILED, "learner-0: no memory"), {}, {"learner-0": status}, 12.0)
    assert (content["status"], content["learner_steps"], content["policy_version"]) == ("failed", STEPS, {"lineage": 0, "step": 35})
    assert content["idle"] == {"learner": 0.5, "actors": None}
    assert (content["nonfinite_steps"], content["rollbacks"]) == (9, 2)


@pytest.mark.parametrize(("low", "high"), [(0, 1), (0.6, 0.75), (-3, 2), (5, 5), (0, 0), (1e-7, 3e-7), (1000, 250000)])
def test_ticks_enclose_the_values_in_round_steps(low: float, high: float) -> None:
    found = ticks(low, high, 5)
    assert found[0] <= low
    assert found[-1] >= high
    assert 2 <= len(found) <= 12


def test_a_chart_without_points_is_no_chart() -> None:
    assert line_chart([Series("nothing", [])]) == ""
    assert line_chart([Series("nothing", [(1.0, float("nan"))])]) == ""
