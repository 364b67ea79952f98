"""A model and a loader that implement the interfaces and take milliseconds, with a config."""

import os
import signal
from pathlib import Path
from types import SimpleNamespace

import torch
from torch import nn

from detrex_lite.config import LazyConfig
from detrex_lite.engine import Hook
from detrex_lite.structures import Boxes, Instances

CONFIG_FILE = Path(__file__).parent / "tiny_config.py"


class TinyDetector(nn.Module):
    """Two linear layers with dropout between them, applied to the mean colours of an image."""

    def __init__(self, *, num_classes=3, dropout=0.5):
        super().__init__()
        self.num_classes = num_classes
        self.backbone = nn.Linear(3, 8)
        self.norm = nn.LayerNorm(8)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(8, num_classes + 4)

    def forward(self, batched_inputs):
        device = self.head.weight.device
        colours = torch.stack([record["image"].to(device).float().mean(dim=(1, 2)) / 255 for record in batched_inputs])
        out = self.head(self.dropout(self.norm(self.backbone(colours))))
        scores, boxes = out[:, : self.num_classes], out[:, self.num_classes :].sigmoid()
        if self.training:
            target = torch.tensor([[float(record["image_id"] % 2)] for record in batched_inputs], device=device)
            return {"loss_class": (scores - target).square().mean(), "loss_bbox": (boxes - 0.5).abs().mean()}
        results = []
        for record, score, box in zip(batched_inputs, scores, boxes, strict=True):
            size = record["height"], record["width"]
            corners = torch.cat([box[:2] * 0.5, 0.5 + box[2:] * 0.5])[None] * record["width"]
            instances = Instances(
                size,
                pred_boxes=Boxes(corners),
                scores=score.max()[None].sigmoid(),
                pred_classes=score.argmax()[None],
            )
            results.append({"instances": instances})
        return results


class TinyLoader:
    """Endless batches that depend only on their number; with `batch_sampler.start_batch` like the real loader.

    Batch `fail_at` raises an error; at batch `signal_at` this process gets a signal.
    """

    def __init__(self, *, batch_size=2, length=None, fail_at=None, signal_at=None, signal=signal.SIGTERM):
        self.batch_size = batch_size
        self.length = length
        self.fail_at = fail_at
        self.signal_at = signal_at
        self.signal = signal
        self.batch_sampler = SimpleNamespace(start_batch=0)

    def __iter__(self):
        torch.rand(1)  # torch's loader also draws a random number at the start
        return self._batches(self.batch_sampler.start_batch)

    def _batches(self, number):
        while self.length is None or number < self.length:
            if number == self.fail_at:
                raise OSError("the disk is gone")
            if number == self.signal_at:
                os.kill(os.getpid(), self.signal)
            yield [self.image(number * self.batch_size + k) for k in range(self.batch_size)]
            number += 1

    @staticmethod
    def image(index):
        generator = torch.Generator().manual_seed(index)
        image = torch.randint(0, 256, (3, 4, 4), generator=generator, dtype=torch.uint8)
        return {"image": image, "height": 4, "width": 4, "image_id": index, "file_name": f"{index}.jpg"}


class CountingEvaluator:
    """Returns the AP in `values`, one per evaluation, and then repeats the last one."""

    def __init__(self, *, values=(10.0,)):
        self.values = values
        self.processed = 0

    def reset(self):
        self.processed = 0

    def process(self, inputs, outputs):
        torch.rand(3)  # evaluation may draw random numbers
        assert len(inputs) == len(outputs)
        self.processed += len(inputs)

    def evaluate(self):
        assert self.processed > 0
        value, *later = self.values
        self.values = later or self.values
        return {"bbox": {"AP": value}}


class Recorder(Hook):
    """Records the total loss of each step."""

    def __init__(self):
        self.losses = []

    def after_step(self, trainer):
        self.losses.append(float(sum(trainer.losses.values())))


def tiny_config(output_dir, *overrides):
    """Create a whole config: the tiny model, 6 steps, checkpoints every 2 steps."""
    cfg = LazyConfig.load(CONFIG_FILE)
    return LazyConfig.apply_overrides(cfg, [f"train.output_dir={output_dir}", *overrides])
