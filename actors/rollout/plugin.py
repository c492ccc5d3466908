"""What vLLM loads into each of its processes (entry point `rba` of the group `vllm.general_plugins`). Edge: vllm, once `register` runs."""

from __future__ import annotations

import multiprocessing
import os
import threading

BACKEND = "zmq"
"""Name of rba's weight-transfer engine, for vLLM's `WeightTransferConfig`."""
PARENT_DIED = 70


def register() -> None:
    """Called by vLLM in its front end, its engine core and its workers. Calling it again changes nothing."""
    _die_with_parent()
    _register_weight_engine()
    _relax_audio_window()


def _register_weight_engine() -> None:
    from vllm.distributed.weight_transfer.factory import WeightTransferEngineFactory

    # registering twice raises, and there is no public look-up
    if BACKEND not in WeightTransferEngineFactory._registry:  # noqa: SLF001
        WeightTransferEngineFactory.register_engine(BACKEND, "actors.rollout.weight_engine", "VersionTransferEngine")


def _relax_audio_window() -> None:
    """Let Qwen2-Audio checkpoints with a window other than 30 s through vLLM's schema check.

    The check wants 3,000 frames, although nothing else in vLLM's code for this model does: the feature extractor pads to the
    checkpoint's own window, and the audio tower refuses what is not its own. Here all it wants is as many frames as mask entries.
    """
    from typing import Annotated, Any, get_args, get_type_hints

    from vllm.model_executor.models.qwen2_audio import Qwen2AudioFeatureInputs
    from vllm.utils.tensor_schema import TensorShape

    hints: dict[str, Any] = get_type_hints(Qwen2AudioFeatureInputs, include_extras=True)
    for name, dimensions in {"input_features": ("na", "nmb", "nf"), "feature_attention_mask": ("na", "nf")}.items():
        kind = get_args(hints[name])[0]
        Qwen2AudioFeatureInputs.__annotations__[name] = Annotated[kind, TensorShape(*dimensions)]


def _die_with_parent() -> None:
    """An engine process whose front end is gone has nobody to work for, but holds a model's worth of memory."""
    parent = multiprocessing.parent_process()
    if parent is None or any(thread.name == _die_with_parent.__name__ for thread in threading.enumerate()):
        return

    def watch() -> None:
        parent.join()
        os._exit(PARENT_DIED)

    threading.Thread(target=watch, name=_die_with_parent.__name__, daemon=True).start()
