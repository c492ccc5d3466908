"""vLLM's own server of the quickstart's reward model, beside our scorer in this process."""

from collections.abc import Iterator
from pathlib import Path

import pytest

import quickstart
from actors.rewards.client import RewardClient
from actors.rewards.items import RewardItem
from actors.rewards.scorers.scorer import open_scorer
from configs.sampling import RewardsSection
from tests.vllm_server import served

pytestmark = pytest.mark.engine

CHECKPOINT = Path(quickstart.__file__).parent / "checkpoints" / "reward_model"
ITEMS = [
    RewardItem("a", "which is less fourteen or five", "five"),
    RewardItem("b", "which is less fourteen or five", "fourteen"),
    RewardItem("c", "say the first of eight yellow old", "eight <|im_end|> or so " * 200),
]


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with served(CHECKPOINT, ["--runner", "pooling", "--max-model-len", "512"], tmp_path_factory.mktemp("serve") / "log.txt") as url:
        yield url


@pytest.mark.parametrize("protocol", ["classify", "pooling"])
async def test_vllm_gives_the_scores_of_our_own_scorer(url: str, protocol: str):
    section = RewardsSection.model_validate({"protocol": protocol, "urls": [url], "model": str(CHECKPOINT)})
    client = RewardClient([url], section)
    assert (await client.check())[0].startswith("vllm|")
    theirs = await client.score(ITEMS)
    await client.aclose()
    ours = open_scorer(RewardsSection(model=str(CHECKPOINT))).score(ITEMS)
    assert [score.score for score in theirs] == pytest.approx([score.score for score in ours], abs=2e-3)
    assert len({score.score for score in theirs}) == 3
