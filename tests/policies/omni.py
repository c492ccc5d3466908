"""A Qwen2.5-Omni checkpoint of random weights, thinker only: the real classes, files and tensor names, small enough for unit tests.

It imports torch and transformers when called.
"""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from tests.tiny import SAMPLING_RATE_HZ, WINDOW_S, tiny_tokenizer

ROLES = {
    "image_token": "<|IMAGE|>",
    "audio_token": "<|AUDIO|>",
    "video_token": "<|VIDEO|>",
    "vision_bos_token": "<|vision_bos|>",
    "vision_eos_token": "<|vision_eos|>",
    "audio_bos_token": "<|audio_bos|>",
    "audio_eos_token": "<|audio_eos|>",
}
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", *ROLES.values()]
SYSTEM = "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
CHAT_TEMPLATE = (
    "{% for message in messages %}{% if loop.first and message['role'] != 'system' %}" + SYSTEM + "{% endif %}"
    "<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}<|im_end|>\n{% else %}{% for content in message['content'] %}"
    "{% if content['type'] == 'audio' or 'audio' in content %}<|audio_bos|><|AUDIO|><|audio_eos|>"
    "{% elif 'text' in content %}{{ content['text'] }}{% endif %}{% endfor %}<|im_end|>\n{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
IMAGES = {
    "image_processor_type": "Qwen2VLImageProcessor",
    "image_mean": [0.5, 0.5, 0.5],
    "image_std": [0.5, 0.5, 0.5],
    "min_pixels": 3136,
    "max_pixels": 12845056,
    "patch_size": 14,
    "merge_size": 2,
    "temporal_patch_size": 2,
}
PROMPT, INSTRUCTION = "say it", "what is three plus four"
LENGTHS_S = (0.6, 1.0, 2.15, 4.0)
"""Clips that vLLM is asked about."""
CHUNK_FRAMES = 50
"""Frames that the audio tower attends over: half a second, so that a clip of the window has eight chunks."""


def omni_checkpoint(directory: Path, *, seed: int = 0, tied: bool = False, window_s: int = WINDOW_S) -> Path:
    """Write a Qwen2.5-Omni thinker with random weights and return its folder."""
    import torch
    from transformers import Qwen2_5OmniThinkerForConditionalGeneration, WhisperFeatureExtractor

    from policies.qwen2_5_omni import save_model

    directory.mkdir(parents=True, exist_ok=True)
    tokenizer = tiny_tokenizer(SPECIAL, **ROLES)
    tokenizer.save_pretrained(directory)
    (directory / "chat_template.json").write_text(json.dumps({"chat_template": CHAT_TEMPLATE}))
    extractor = WhisperFeatureExtractor(feature_size=16, chunk_length=window_s, sampling_rate=SAMPLING_RATE_HZ, return_attention_mask=True)
    settings = {**extractor.to_dict(), **IMAGES, "processor_class": "Qwen2_5OmniProcessor"}
    (directory / "preprocessor_config.json").write_text(json.dumps(settings, indent=2))
    torch.manual_seed(seed)
    model = Qwen2_5OmniThinkerForConditionalGeneration(thinker_config(tokenizer, tied)).float()
    save_model(model, directory)
    return directory


def thinker_config(tokenizer: Any, tied: bool) -> Any:
    """Heads of 32, as vLLM's attention on a CPU wants, and everything else as small as it goes."""
    from transformers import Qwen2_5OmniThinkerConfig

    ids = {token: tokenizer.convert_tokens_to_ids(token) for token in SPECIAL}
    return Qwen2_5OmniThinkerConfig(
        audio_config={
            "d_model": 32,
            "encoder_layers": 2,
            "encoder_attention_heads": 2,
            "encoder_ffn_dim": 64,
            "num_mel_bins": 16,
            "n_window": CHUNK_FRAMES // 2,
            "output_dim": 64,
        },
        vision_config={
            "depth": 1,
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_heads": 2,
            "out_hidden_size": 64,
            "fullatt_block_indexes": [0],
        },
        text_config={
            "hidden_size": 64,
            "intermediate_size": 128,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "num_key_value_heads": 1,
            "vocab_size": len(tokenizer),
            "max_position_embeddings": 512,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [4, 6, 6]},
            "tie_word_embeddings": tied,
            "bos_token_id": ids["<|endoftext|>"],
            "eos_token_id": ids["<|im_end|>"],
            "pad_token_id": ids["<|endoftext|>"],
        },
        audio_token_index=ids["<|AUDIO|>"],
        image_token_index=ids["<|IMAGE|>"],
        video_token_index=ids["<|VIDEO|>"],
        audio_start_token_id=ids["<|audio_bos|>"],
        audio_end_token_id=ids["<|audio_eos|>"],
        vision_start_token_id=ids["<|vision_bos|>"],
        vision_end_token_id=ids["<|vision_eos|>"],
        tie_word_embeddings=tied,
    )


def omni_processor(directory: Path) -> Any:
    """transformers' own processor. Without torchvision, what images need is left out of it; text and audio never ask."""
    from transformers import AutoTokenizer, WhisperFeatureExtractor
    from transformers.models.qwen2_5_omni.processing_qwen2_5_omni import Qwen2_5OmniProcessor

    if importlib.util.find_spec("torchvision"):
        return Qwen2_5OmniProcessor.from_pretrained(directory)
    processor = Qwen2_5OmniProcessor.__new__(Qwen2_5OmniProcessor)
    processor.tokenizer = AutoTokenizer.from_pretrained(directory)
    processor.feature_extractor = WhisperFeatureExtractor.from_pretrained(directory)
    processor.image_processor = processor.video_processor = SimpleNamespace(merge_size=2)
    processor.chat_template = json.loads((directory / "chat_template.json").read_text())["chat_template"]
    for role in ROLES:
        setattr(processor, role, getattr(processor.tokenizer, role))
    return processor


def torchvision_stand_in(directory: Path) -> str:
    """A folder for `PYTHONPATH` in which torchvision can be imported, and "" where it is installed.

    transformers and vLLM import it for this family's images, of which there are none; the lock file for a CPU leaves it out.
    """
    if importlib.util.find_spec("torchvision"):
        return ""
    modes = ("NEAREST", "NEAREST_EXACT", "BOX", "BILINEAR", "HAMMING", "BICUBIC", "LANCZOS")
    enumeration = f"import enum\nInterpolationMode = enum.Enum('InterpolationMode', {modes!r})\n"
    anything = "def __getattr__(name):\n    if name.startswith('__'):\n        raise AttributeError(name)\n"
    files = {
        "__init__.py": "__version__ = '0.28.0'\n",
        "io.py": anything,
        "transforms/__init__.py": enumeration,
        "transforms/functional.py": anything,
        "transforms/v2/__init__.py": "",
        "transforms/v2/functional.py": "from torchvision.transforms import InterpolationMode\n" + anything,
    }
    for name, text in files.items():
        (directory / "torchvision" / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / "torchvision" / name).write_text(text)
    return str(directory)
