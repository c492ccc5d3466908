"""Tiny checkpoints and a running server for the reward tests."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from actors.rewards.server import RewardServer
from configs.sampling import RewardsSection

QWEN_TEMPLATE = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
LLAMA_TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}<|start_header_id|>{{ m.role }}<|end_header_id|>\n\n{{ m.content | trim }}<|eot_id|>{% endfor %}"
)


def make_tokenizer(special: list[str], template: str, **names: str) -> Any:
    """A tokenizer of one token a byte, plus special tokens."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = Tokenizer(models.BPE(vocab={byte: index for index, byte in enumerate(alphabet)}, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, additional_special_tokens=special, **names)
    tokenizer.chat_template = template
    return tokenizer


@pytest.fixture(scope="session")
def reward_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random reward model of Qwen2's architecture; its pad token is its end token, as in many published ones."""
    import torch
    from transformers import Qwen2Config, Qwen2ForSequenceClassification

    directory = tmp_path_factory.mktemp("reward_model")
    tokenizer = make_tokenizer(["<|im_start|>", "<|im_end|>"], QWEN_TEMPLATE, eos_token="<|im_end|>", pad_token="<|im_end|>")
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=256,
        num_labels=1,
        pad_token_id=tokenizer.pad_token_id,
    )
    model = Qwen2ForSequenceClassification(config)
    torch.nn.init.normal_(model.score.weight, std=1.0)
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return directory


@pytest.fixture(scope="session")
def armorm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random checkpoint with ArmoRM's configuration and published tensor names, in two shards."""
    import torch
    from safetensors.torch import save_file
    from transformers import LlamaConfig, LlamaModel

    directory = tmp_path_factory.mktemp("armorm")
    special = ["<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"]
    tokenizer = make_tokenizer(special, LLAMA_TEMPLATE, bos_token="<|begin_of_text|>", eos_token="<|eot_id|>")
    torch.manual_seed(1)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=24,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=256,
        architectures=["LlamaForRewardModelWithGating"],
        num_labels=1,
    )
    body = {f"model.{name}": tensor for name, tensor in LlamaModel(config).state_dict().items()}
    sizes = [24, 16, 16, 16, 19]
    heads = {
        "regression_layer.weight": torch.randn(19, 24),
        "reward_transform_matrix": torch.randn(19, 19),
        "gating.logit_scale": torch.tensor([1.7]),
    }
    for layer in range(4):
        heads[f"gating.layers.{layer}.weight"] = torch.randn(sizes[layer + 1], sizes[layer])
        heads[f"gating.layers.{layer}.bias"] = torch.randn(sizes[layer + 1])
    shards = {"model-00001-of-00002.safetensors": body, "model-00002-of-00002.safetensors": heads}
    for file, tensors in shards.items():
        save_file(tensors, directory / file, metadata={"format": "pt"})
    weight_map = {name: file for file, tensors in shards.items() for name in tensors}
    (directory / "model.safetensors.index.json").write_text(json.dumps({"metadata": {"total_size": 0}, "weight_map": weight_map}))
    config.save_pretrained(directory)
    saved = json.loads((directory / "config.json").read_text())
    saved |= {"architectures": ["LlamaForRewardModelWithGating"], "auto_map": {"AutoModel": "modeling_custom.Missing"}}
    saved |= {"num_objectives": 19, "gating_temperature": 5, "gating_hidden_dim": 16, "gating_n_hidden": 3}
    (directory / "config.json").write_text(json.dumps(saved))
    tokenizer.save_pretrained(directory)
    return directory


Serve = Callable[..., RewardServer]


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Starts reward servers on free ports, and stops them after the test."""
    running: list[tuple[RewardServer, threading.Thread, list[BaseException]]] = []

    def start(section: RewardsSection | None = None, *, scorer: Any = None, token: str | None = None) -> RewardServer:
        server = RewardServer(section or RewardsSection(scorer="bleu"), "127.0.0.1", 0, scorer=scorer, token=token)
        failures: list[BaseException] = []

        def run() -> None:
            try:
                server.run()
            except BaseException as error:  # noqa: BLE001 - looked at below
                failures.append(error)

        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        running.append((server, thread, failures))
        return server

    yield start
    for server, thread, failures in running:
        server.stop("test ends")
        thread.join(timeout=60)
        assert not thread.is_alive()
        assert not failures
