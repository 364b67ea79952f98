"""How many operators a training step launches: on a GPU each costs some microseconds, however small it is."""

from collections import Counter

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from detrex_lite.config import get_config
from detrex_lite.modeling import Targets
from detrex_lite.testing import SMALL, build, changed, make_batch

# Operators that launch nothing.
FREE = {"aten.detach.default", "aten._unsafe_view.default", "aten.alias.default", "aten.promote_types.default"}


class _CountOperators(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.counts = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if not func.is_view and str(func) not in FREE:
            self.counts[str(func)] += 1
        return func(*args, **(kwargs or {}))

    @property
    def total(self):
        return self.counts.total()


def operators_of_a_step(path, **changes):
    """Operators of the forward pass, of matching and losses, and of the backward pass."""
    cfg = changed(get_config(path).model, {**SMALL, **changes})
    model, batch = build(cfg).train(), make_batch()[:2]
    sum(model(batch).values()).backward()  # makes what is kept from step to step
    images = model.preprocess(batch, as_published=True)
    targets = Targets.from_inputs(batch, num_classes=model.num_classes, like=images.tensor)
    with _CountOperators() as forward:
        outputs = model.predict(images, targets)
    with _CountOperators() as losses:
        total = torch.stack(list(model.criterion(outputs, targets).values())).sum()
    with _CountOperators() as backward:
        total.backward()
    return forward.total, losses.total, backward.total


DETR = "projects/detr/configs/models/detr_r50.py"
DINO = "projects/dino/configs/models/dino_r50.py"


@pytest.mark.parametrize(("path", "counted"), [(DETR, (426, 129, 666)), (DINO, (682, 229, 885))])
def test_a_step_launches_no_more_operators_than_it_did(path, counted):
    """`counted` with torch 2.15; other versions compose some operators of others."""
    for now, before in zip(operators_of_a_step(path), counted, strict=True):
        assert now <= 1.03 * before


@pytest.mark.parametrize("path", [DETR, DINO])
def test_a_further_layer_costs_matching_and_losses_next_to_nothing(path):
    (_, two, _), (_, five, _) = (operators_of_a_step(path, **{"transformer.decoder.num_layers": n}) for n in (2, 5))
    assert five - two <= 3 * 4
