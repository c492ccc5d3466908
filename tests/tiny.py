"""A SpeechLM checkpoint of random weights, small enough for unit tests: the real layout, the real files, no knowledge.

It imports torch and transformers when called, so tests that need no model may import this module freely.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

WINDOW_S = 4
SAMPLING_RATE_HZ = 16_000
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|audio_bos|>", "<|AUDIO|>", "<|audio_eos|>"]
CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}{% for content in message['content'] %}"
    "{% if content['type'] == 'audio' %}<|audio_bos|><|AUDIO|><|audio_eos|>{% else %}{{ content['text'] }}{% endif %}"
    "{% endfor %}{% endif %}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
CORPUS = [
    "what is three plus four",
    "the answer is seven",
    "user assistant system",
    "repeat after me the red house is far away",
    "the capital of peru is lima",
]


def tiny_checkpoint(directory: Path, *, seed: int = 0, hidden: int = 32, layers: int = 1, mel: int = 16) -> Path:
    """Write a Qwen2-Audio checkpoint with random weights (about 0.1 M parameters, 4-second window) and return its folder."""
    import torch
    from transformers import Qwen2AudioConfig, Qwen2AudioForConditionalGeneration, WhisperFeatureExtractor

    from policies.qwen2_audio import save_model

    directory.mkdir(parents=True, exist_ok=True)
    tokenizer = tiny_tokenizer(SPECIAL)
    tokenizer.chat_template = CHAT_TEMPLATE
    extractor = WhisperFeatureExtractor(feature_size=mel, chunk_length=WINDOW_S, sampling_rate=SAMPLING_RATE_HZ, return_attention_mask=True)
    ids = {token: tokenizer.convert_tokens_to_ids(token) for token in SPECIAL}
    config = Qwen2AudioConfig(
        audio_config={
            "model_type": "qwen2_audio_encoder",
            "d_model": hidden,
            "encoder_layers": layers,
            "encoder_attention_heads": 2,
            "encoder_ffn_dim": 2 * hidden,
            "num_mel_bins": mel,
            "max_source_positions": WINDOW_S * 50,
        },
        text_config={
            "model_type": "qwen2",
            "hidden_size": hidden,
            "intermediate_size": 2 * hidden,
            "num_hidden_layers": layers,
            "num_attention_heads": 2,
            "num_key_value_heads": 1,
            "vocab_size": len(tokenizer),
            "max_position_embeddings": 512,
            "tie_word_embeddings": False,
            "bos_token_id": ids["<|endoftext|>"],
            "eos_token_id": ids["<|im_end|>"],
            "pad_token_id": ids["<|endoftext|>"],
        },
        audio_token_index=ids["<|AUDIO|>"],
        eos_token_id=ids["<|im_end|>"],
        pad_token_id=ids["<|endoftext|>"],
    )
    torch.manual_seed(seed)
    tokenizer.save_pretrained(directory)
    extractor.save_pretrained(directory)
    for name in ("preprocessor_config.json", "tokenizer_config.json"):
        settings = json.loads((directory / name).read_text())
        (directory / name).write_text(json.dumps({**settings, "processor_class": "Qwen2AudioProcessor"}, indent=2))
    save_model(Qwen2AudioForConditionalGeneration(config).float(), directory)
    (directory / "generation_config.json").write_text(
        json.dumps({"eos_token_id": [ids["<|im_end|>"], ids["<|endoftext|>"]], "pad_token_id": ids["<|endoftext|>"]})
    )
    return directory


def tone(duration_s: float, seed: int = 0) -> np.ndarray:
    """Float32 mono 16 kHz ``[sample]``: a quiet tone with noise, different for each seed."""
    import numpy as np

    time_s = np.arange(int(duration_s * SAMPLING_RATE_HZ)) / SAMPLING_RATE_HZ
    noise = np.random.default_rng(seed).normal(scale=0.02, size=time_s.shape)
    return (0.2 * np.sin(2 * np.pi * (200 + 70 * (seed % 13)) * time_s) + noise).astype(np.float32)


def tiny_tokenizer(special: list[str], **roles: str) -> Any:
    """Byte-level BPE of 320 tokens, `special` first; `roles` are tokens that its users ask for by attribute, such as `audio_token`."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=320, special_tokens=special, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    further = {"extra_special_tokens": roles} if roles else {"additional_special_tokens": special}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|im_end|>", pad_token="<|endoftext|>", **further)
