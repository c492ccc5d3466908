"""How a run is described: the pydantic schema behind every recipe.

Field docs are the strings under the fields; `rba config schema` prints them. Times are in seconds (`_s`), sizes in
bytes (`_bytes`), and work is counted in instruction groups (`_groups`).
"""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from configs.machines import FleetSection, NetworkSection, RaySection, WeightsSection
from configs.sampling import PairingSection, RewardsSection, RolloutSection
from configs.section import NonNegativeInt, PositiveFloat, Section
from configs.training import EvaluationSection, LearnerSection, LossSection, ValidationSection

Strategy = Literal["group", "single", "hybrid", "sft"]


class RunSection(Section):
    """What the run is called and where it leaves its files."""

    changeable = frozenset({"name", "directory"})

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")] = "run"
    """Name of the folder under `directory`; a number is appended when it is taken."""
    directory: str = "runs"
    """Where runs are kept."""
    seed: NonNegativeInt = 0
    """Seeds prompt order, sampling and the learner."""


class ModelSection(Section):
    """The SpeechLM that is aligned."""

    adapter: Literal["qwen2_audio", "qwen2_5_omni"] = "qwen2_audio"
    """Family of the SpeechLM."""
    path: str
    """Checkpoint folder in the released Hugging Face layout, a Hub name, or `SCHEME:NAME` of an asset provider."""
    dtype: Literal["float32", "bfloat16"] = "bfloat16"
    """Of the weights that are published to the actors."""


class DataSection(Section):
    """Instruction groups, as JSON lines beside their audio."""

    train: str
    """Manifest of the training groups: a path, a URL such as `s3://bucket/train.jsonl`, or `SCHEME:NAME` of an asset provider."""
    mix: dict[str, PositiveFloat] = {}
    """Further training manifests by weight: for each group of `train`, that many of theirs. Each goes through epochs of its own."""
    test: str | None = None
    """Manifest of the held-out groups that are measured before and after."""
    validation: str | None = None
    """Manifest of the groups that the best checkpoint is chosen by (see `validation`)."""
    max_audio_s: PositiveFloat = 30.0
    """Longer audio is refused."""
    shuffle: bool = True
    """Order the groups of each epoch by the run's seed."""


class RunConfig(Section):
    """A whole run."""

    run: RunSection = RunSection()
    strategy: Strategy = "group"
    """`group`: best against worst over the voices; `single`: the teacher's reference against each sample; `hybrid`: best against worst, the
    reference being one more candidate for the best; `sft`: the reference alone."""
    model: ModelSection
    data: DataSection
    rollout: RolloutSection = RolloutSection()
    pairing: PairingSection = PairingSection()
    rewards: RewardsSection = RewardsSection()
    loss: LossSection = LossSection()
    learner: LearnerSection = LearnerSection()
    evaluation: EvaluationSection = EvaluationSection()
    validation: ValidationSection = ValidationSection()
    network: NetworkSection = NetworkSection()
    weights: WeightsSection = WeightsSection()
    ray: RaySection = RaySection()
    fleet: FleetSection = FleetSection()

    @property
    def needs_rewards(self) -> bool:
        """True when the strategy cannot train without scores (equations 2 to 4)."""
        return self.strategy in {"group", "hybrid"}

    @property
    def uses_rewards(self) -> bool:
        """True when any part of the run asks a reward server."""
        return self.needs_rewards or bool(self.evaluation.score)

    @property
    def serves_rewards(self) -> bool:
        """True when the run starts reward servers of its own."""
        return self.uses_rewards and not self.rewards.urls

    @property
    def manifests(self) -> dict[str, str]:
        """The data sets that the run reads, by key under `data`."""
        data = self.data
        test, validation = data.test if self.evaluation.groups else None, data.validation if self.validation.every else None
        mixed = ((f"mix {number}", path) for number, path in enumerate(data.mix, 1))
        return {key: path for key, path in (("train", data.train), *mixed, ("test", test), ("validation", validation)) if path}

    @property
    def checkpoints(self) -> dict[str, str]:
        """The checkpoints that the run starts from, and that its own reward servers load, by key."""
        return {"model.path": self.model.path, **(self.rewards.models if self.serves_rewards else {})}

    @property
    def budget_groups(self) -> int:
        """Most groups leased, queued and in the current step together: the bound on staleness."""
        return (self.learner.max_policy_lag + 1) * self.learner.batch_groups

    @model_validator(mode="after")
    def combinations_are_possible(self) -> Self:
        """Refuse combinations that could not run, with what to do instead."""
        learner, loss = self.learner, self.loss
        if self.strategy != "sft" and loss.reference_model == "none" and loss.lambda_ce == 0:
            raise ValueError(
                "loss.reference_model: none needs loss.lambda_ce > 0, since nothing else would hold the policy near the teacher; "
                "set loss.reference_model=frozen or loss.lambda_ce=0.2"
            )
        if loss.reference_model == "adapter_off" and learner.lora is None:
            raise ValueError("loss.reference_model: adapter_off needs adapters to switch off; set learner.lora.r=16, or use frozen")
        if loss.preference == "ipo" and loss.label_smoothing:
            raise ValueError("loss.label_smoothing has no meaning with loss.preference=ipo; leave it at 0")
        if learner.max_policy_lag < learner.publish_every - 1:
            raise ValueError(
                f"learner.max_policy_lag ({learner.max_policy_lag}) is below learner.publish_every - 1 ({learner.publish_every - 1}), "
                "so every pair would be dropped as stale; publish more often or allow more lag"
            )
        if self.validation.every and not self.data.validation:
            raise ValueError("validation.every needs data.validation, a manifest of the groups to validate by")
        if self.validation.every and self.validation.metric == "reward" and not (self.needs_rewards or self.evaluation.score):
            raise ValueError("validation.metric=reward needs evaluation.score=true, or nobody scores the answers")
        if learner.batch_groups % learner.ranks:
            raise ValueError(f"learner.batch_groups ({learner.batch_groups}) must be a multiple of learner.ranks ({learner.ranks})")
        if self.serves_rewards:
            self.rewards.require(" (or rewards.urls of servers that already run)")
        if self.weights.backend == "nccl":
            self._broadcasts_are_possible()
        if self.network.leaves_the_machine and self.network.keys is None and not self.network.insecure:
            raise ValueError(
                f"network.bind={self.network.bind} leaves the loopback interface and the sockets carry no keys; "
                "set network.keys to a folder for them, bind to 127.0.0.1, or set network.insecure=true on a network that you trust"
            )
        return self

    def _broadcasts_are_possible(self) -> None:
        if self.fleet.autoscale:
            raise ValueError("weights.backend=nccl needs a fixed fleet; set fleet.autoscale=false, or weights.backend=zmq")
        if self.network.leaves_the_machine and not self.weights.in_clear and not self.network.insecure:
            raise ValueError(
                f"weights.backend=nccl sends the weights in the clear and network.bind={self.network.bind} leaves the loopback interface; "
                "set weights.in_clear=true on a network that you trust, or weights.backend=zmq"
            )
