import pytest

from configs import loader
from ops import plan

GPUS = plan.Machine(64, 8, 1 << 40)
PART = "rewards.combination."


@pytest.mark.parametrize(
    ("overrides", "gpus"),
    [
        (["rewards.scorer=seqcls"], 1.0),
        (["rewards.scorer=qa"], 0.0),
        (["rewards.scorer=chrf"], 0.0),
        (["rewards.scorer=python", "rewards.python.function=m:f"], 0.0),
        (["rewards.scorer=python", "rewards.python.function=m:f", "rewards.gpus=0.5"], 0.5),
        (["rewards.scorer=combination", f"{PART}a.scorer=bleu", f"{PART}b.scorer=seqcls", f"{PART}b.model=m"], 1.0),
        (["rewards.scorer=combination", f"{PART}a.scorer=bleu", f"{PART}b.scorer=qa"], 0.0),
    ],
)
def test_reward_servers_have_a_gpu_where_they_load_a_model(overrides: list[str], gpus: float) -> None:
    made = plan.make(loader.load("quickstart", overrides), GPUS)
    assert [process.gpus for process in made.processes if process.role == "reward"] == [gpus]
