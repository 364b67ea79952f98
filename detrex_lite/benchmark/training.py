"""How fast a config trains, and what takes the time: data, forward and backward pass, optimizer."""

import time
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from omegaconf import OmegaConf

from ..config import LazyConfig, instantiate
from ..engine.build import build_optimizer
from ..engine.settings import AMP_DTYPES, complete
from .errors import require_positive
from .machine import machine_facts
from .stages import StagesReport
from .timing import Timing

WHOLE = "step"


def benchmark_training(
    file: str, overrides: Sequence[str], device: torch.device, *, repeats: int = 20, warmup: int = 3
) -> StagesReport:
    """Train some steps on the config's own data, with random weights, and without hooks and averages of weights.

    Args:
        file: a config.
        overrides: of it.
        device: where.
        repeats: steps that are measured.
        warmup: steps before them.

    Raises:
        ConfigError: when the config, an override or its data is wrong.
    """
    require_positive(repeats=repeats, warmup=warmup)
    config = LazyConfig.apply_overrides(LazyConfig.load(file), list(overrides))
    OmegaConf.update(config, "train.device", str(device))
    config = complete(config, sections=("dataloader", "optimizer"))
    if OmegaConf.select(config, "model.backbone.weights") is not None:
        config.model.backbone.weights = None
    train = config.train
    torch.manual_seed(train.seed)
    loader = instantiate(config.dataloader.train)
    model = instantiate(config.model).to(device).train()
    optimizer = build_optimizer(config.optimizer, model)
    dtype = AMP_DTYPES[train.amp.dtype] if train.amp.enabled else None
    max_norm = train.clip_grad.params if train.clip_grad.enabled else None
    batches = _endless(loader)
    seconds: dict[str, list[float]] = {part: [] for part in (WHOLE, "data", "forward and backward", "optimizer")}
    images = 0
    for step in range(-warmup, repeats):
        marks = [_now(device)]
        batch = next(batches)
        marks.append(_now(device))
        with torch.autocast(device.type, dtype=dtype or torch.bfloat16, enabled=dtype is not None):
            loss = torch.stack([one.float() for one in model(batch).values()]).sum()
        loss.backward()
        marks.append(_now(device))
        if max_norm is not None:
            torch.nn.utils.clip_grad_norm_(model.parameters(), **max_norm)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        marks.append(_now(device))
        if step >= 0:
            images += len(batch)
            seconds[WHOLE].append(marks[-1] - marks[0])
            for part, start, end in zip(list(seconds)[1:], marks, marks[1:], strict=False):
                seconds[part].append(end - start)
    timings = {part: Timing(tuple(values)) for part, values in seconds.items()}
    return StagesReport(
        title=f"Training steps of {file}, {images // repeats} images each",
        machine=machine_facts(device),
        settings={"config": file, "overrides": list(overrides), "repeats": repeats, "warmup": warmup},
        timings=timings,
        whole=WHOLE,
        rates={
            "steps/s by the median": 1 / timings[WHOLE].median,
            "images/s": images / sum(timings[WHOLE].seconds),
        },
    )


def _endless(loader: Any) -> Iterator[list[dict[str, Any]]]:
    while True:
        yield from loader


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
