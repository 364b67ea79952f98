"""Tests messages about exhausted memory, with the errors that torch raises."""

import pytest
import torch

from detrex_lite.engine import clear_errors, evaluate, train
from detrex_lite.engine.memory_full import MemoryFullError, describe_batch, describe_memory, training_memory_full
from detrex_lite.layers import FFN, BaseTransformerLayer, MultiheadAttention
from detrex_lite.structures import Boxes, Instances

from .tiny import TinyDetector, tiny_config

FULL = "[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to allocate"


class OutOfMemoryDetector(TinyDetector):
    """Raises torch's out-of-memory error in its third training step, or in evaluation."""

    def __init__(self, *, in_training=True, **arguments):
        super().__init__(**arguments)
        self.in_training = in_training
        self.steps = 0

    def forward(self, batched_inputs):
        self.steps += self.training
        if self.training == self.in_training and (not self.training or self.steps == 3):
            raise RuntimeError(f"{FULL} {2 * 2**30} bytes. Error code 12 (Cannot allocate memory)")
        return super().forward(batched_inputs)


def out_of_memory_config(folder, *overrides, **arguments):
    cfg = tiny_config(folder, *overrides)
    cfg.model._target_ = OutOfMemoryDetector
    cfg.model.update(arguments)
    return cfg


def test_running_out_of_memory_in_training_names_the_sizes_and_remedies(tmp_path, capsys):
    with pytest.raises(SystemExit) as exit_info, clear_errors():
        train(out_of_memory_config(tmp_path, "train.accumulate_steps=1"))
    assert exit_info.value.code == 1
    message = capsys.readouterr().err
    for part in (
        "iteration 3",
        "2 images of up to 4x4 pixels",
        "2.00 GiB more",
        "train.amp.enabled=True",
        "train.accumulate_steps=2",
        "--find-batch-size",
    ):
        assert part in message
    assert "activation_checkpointing" not in message  # there is no transformer layer
    assert "out of memory at iteration 3" in (tmp_path / "log.txt").read_text()


def test_running_out_of_memory_in_evaluation_advises_a_smaller_batch(tmp_path):
    train(tiny_config(tmp_path / "run"))
    weights = tmp_path / "run" / "model_final.pth"
    with pytest.raises(MemoryFullError, match=r"dataloader\.test\.batch_size=1"):
        evaluate(out_of_memory_config(tmp_path / "evaluation", f"train.init_checkpoint={weights}", in_training=False))


def test_settings_already_in_use_are_not_advised():
    layer = BaseTransformerLayer(
        attn=MultiheadAttention(embed_dim=8, num_heads=1),
        ffn=FFN(embed_dim=8, feedforward_dim=8),
        norm=torch.nn.LayerNorm(8),
        operation_order=("self_attn", "norm", "ffn", "norm"),
    )

    def advice(**settings):
        error = RuntimeError("CUDA out of memory. Tried to allocate 20.00 MiB. GPU 0 has a total capacity of 1 GiB")
        return str(
            training_memory_full(
                error, iteration=1, model=layer, device=torch.device("cpu"), accumulate_steps=1, **settings
            )
        )

    batch = [{"image": torch.zeros(3, 4, 8)}] * 2
    all_advice = advice(batch=batch, has_amp=False)
    assert all(key in all_advice for key in ("amp", "accumulate_steps=2", "activation_checkpointing", "20.00 MiB"))
    layer.activation_checkpointing = True
    remaining_advice = advice(batch=batch[:1], has_amp=True)
    assert not any(key in remaining_advice for key in ("amp.enabled", "accumulate_steps", "activation_checkpointing"))


def test_describe_batch_gives_counts_and_sizes():
    objects = Instances((4, 9), gt_boxes=Boxes(torch.zeros(3, 4)), gt_classes=torch.zeros(3, dtype=torch.int64))
    batch = [{"image": torch.zeros(3, 4, 9), "instances": objects}, {"image": torch.zeros(3, 5, 8)}]
    assert describe_batch(batch) == "2 images of up to 5x9 pixels (height x width) and 3 objects"
    assert describe_batch([]).startswith("0 images")


def test_describe_memory_gives_three_positive_sizes():
    text = describe_memory(torch.device("cpu"))
    assert text.count(" GiB") == 3
    assert "-" not in text
