"""The time of matching all sets of predictions of a training step, as in DINO."""

from collections.abc import Callable
from dataclasses import asdict

import torch

from detrex_lite.modeling import BoxL1Cost, FocalCost, GIoUCost, HungarianMatcher
from detrex_lite.modeling.predictions import Predictions
from detrex_lite.modeling.targets import Targets

from .machine import machine_facts
from .settings import MatchingSettings
from .stages import StagesReport
from .timing import time_in_turns


def benchmark_matching(settings: MatchingSettings, device: torch.device) -> StagesReport:
    """Time the matcher with the costs of Deformable DETR and its successors, and separately the costs."""
    generator = torch.Generator().manual_seed(0)

    def boxes(*shape: int) -> torch.Tensor:
        centres, sizes = (torch.rand(*shape, 2, generator=generator) for _ in range(2))
        return torch.cat([0.2 + 0.6 * centres, 0.02 + 0.3 * sizes], dim=-1).to(device)

    shape = settings.images, settings.queries
    predictions = {
        f"_{number}": Predictions(torch.randn(*shape, settings.classes, generator=generator).to(device), boxes(*shape))
        for number in range(settings.sets)
    }
    number = settings.images * settings.objects
    labels = torch.randint(settings.classes, (number,), generator=generator).to(device)
    targets = Targets(labels, boxes(number), [settings.objects] * settings.images)
    matcher = HungarianMatcher(
        {"label": FocalCost(weight=2.0), "bbox": BoxL1Cost(weight=5.0), "giou": GIoUCost(weight=2.0)}
    )

    sides: dict[str, Callable[[], object]] = {
        "matching": lambda: matcher(predictions, targets),
        "of that, costs": lambda: matcher.cost_matrices(predictions, targets),
    }
    timings = time_in_turns(sides, device, repeats=settings.repeats)
    return StagesReport(
        title=(
            f"Matching {settings.sets} sets of {settings.queries} queries with {settings.objects} objects in each of "
            f"{settings.images} images"
        ),
        machine=machine_facts(device),
        settings=asdict(settings),
        timings=timings,
        whole="matching",
    )
