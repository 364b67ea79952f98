import re
from types import SimpleNamespace

import torch

from detrex_lite.engine import get_param_groups
from detrex_lite.engine.io.summary import describe_run
from detrex_lite.engine.settings import Lengths
from detrex_lite.layers import MultiScaleDeformableAttention

from ..tiny import TinyDetector


def rows(**changes):
    model = TinyDetector()
    model.head.requires_grad_(False)
    cells = SimpleNamespace(
        name="cells",
        num_boxes=4096,
        num_classes=3,
        has_annotations=True,
        dropped={"no area": 2, "outside of the image": 0},
        clipped=5,
    )
    arguments = {
        "model": model,
        "optimizer": torch.optim.AdamW(
            get_param_groups(model, base_lr=1e-3, backbone_lr_factor=0.1), lr=1e-3, weight_decay=1e-4
        ),
        "device": torch.device("cpu"),
        "amp_dtype": None,
        "weights": "from scratch",
        "datasets": {"training": Sized(cells, 1234), "validation": None},
        "lengths": Lengths(max_iter=1000, eval_period=250, checkpoint_period=0, epoch=100.0),
        "batch_size": 16,
        "accumulate_steps": 2,
        **changes,
    }
    lines = describe_run(**arguments).splitlines()
    return [tuple(line.split("  ", 1)) for line in lines]


class Sized:
    def __init__(self, dataset, length):
        self.__dict__.update(vars(dataset))
        self.length = length

    def __len__(self):
        return self.length


def text(name, **changes):
    return [value.strip() for key, value in rows(**changes) if key == name]


def assert_matches(lines, *patterns):
    assert len(lines) == len(patterns)
    for line, pattern in zip(lines, patterns, strict=True):
        assert re.match(pattern, line), line


def test_the_summary_has_a_line_for_each_topic():
    names = [name for name, _ in rows()]
    topics = ["device", "attention", "precision", "model", "weights", "training", "validation", "batch", "length"]
    assert names == [*topics, "learning rate", "learning rate"]


def test_the_backend_of_deformable_attention_is_named_if_the_model_uses_one(monkeypatch):
    assert text("deformable attention") == []
    model = TinyDetector()
    model.attention = MultiScaleDeformableAttention(8, 2, num_levels=1)
    assert text("deformable attention", model=model)[0].startswith("embedding_bag (torch's embedding_bag")
    monkeypatch.setenv("DETREX_LITE_DEFORMABLE_ATTENTION", "reference")
    assert text("deformable attention", model=model)[0].startswith("reference (plain")


def test_lines_give_counts_sizes_and_rates():
    assert text("device")[0].startswith("cpu (")
    assert "scaled_dot_product_attention: flash, math" in text("attention")[0]
    assert_matches(text("model"), "TinyDetector, 111 parameters, 48 trainable, 3 classes")
    assert_matches(text("training"), "cells: 1,234 images, 4,096 boxes, 3 classes; .* 2 no area; 5 clipped")
    assert_matches(text("batch"), "16 images .*1 process .*2 batches = 32 images")
    assert_matches(text("length"), r"1,000 steps = 10 epochs; checkpoint .*evaluation .*250 steps = 2\.5 epochs")
    assert_matches(
        text("learning rate"),
        r"0\.0001, weight decay 0\.0001: 32 parameters \(AdamW\)",
        r"0\.001, weight decay 0\.0001: 16 parameters \(AdamW\)",
    )


def test_several_processes_split_the_batch(monkeypatch):
    assert text("processes") == []
    monkeypatch.setattr("detrex_lite.distributed.world_size", lambda: 4)
    monkeypatch.setattr("torch.distributed.get_backend", lambda: "gloo")
    assert_matches(text("processes"), r"4 by gloo, .*\(DistributedDataParallel\).* 4 of the 16 images")
    assert_matches(text("batch"), "4 images .*4 processes .*2 batches = 32 images")
    assert text("processes", batch_size=None)[0].endswith("batches of its own")


def test_the_precision_names_the_autocast_dtype():
    assert text("precision") == ["float32"]
    assert text("precision", amp_dtype=torch.bfloat16) == ["float32 with bfloat16 autocast"]


def test_a_data_set_without_annotations_has_no_boxes():
    bare = SimpleNamespace(name="photos", num_classes=3, has_annotations=False, dropped={}, clipped=0)
    assert_matches(text("validation", datasets={"validation": Sized(bare, 5)}), "photos: 5 images, no annotations")


def test_unknown_sizes_are_left_out():
    assert_matches(text("batch", batch_size=None), "2 batches")
    lengths = Lengths(max_iter=5, eval_period=0, checkpoint_period=2, epoch=None)
    assert_matches(text("length", lengths=lengths), "5 steps; checkpoint .*2 steps .*evaluation at the end")
