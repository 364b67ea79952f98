"""The number of operators of a training step. On a GPU each costs some microseconds, however small it is."""

from collections import Counter

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from detrex_lite.config import get_config
from detrex_lite.modeling import Targets
from detrex_lite.testing import SMALL, build, changed, make_batch

# Operators that launch no kernel.
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
    """The numbers of operators of the forward pass, of matching and losses, and of the backward pass."""
    cfg = changed(get_config(path).model, {**SMALL, **changes})
    model, batch = build(cfg).train(), make_batch()[:2]
    sum(model(batch).values()).backward()  # creates the tensors that are kept between steps
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


@pytest.mark.parametrize(("path", "limits"), [(DETR, (426, 129, 666)), (DINO, (682, 229, 885))])
def test_the_number_of_operators_of_a_step_does_not_increase(path, limits):
    """The limits were counted with torch 2.15; in other versions some operators consist of several others."""
    for number, limit in zip(operators_of_a_step(path), limits, strict=True):
        assert number <= 1.03 * limit


@pytest.mark.parametrize("path", [DETR, DINO])
def test_an_additional_layer_adds_few_operators_to_matching_and_losses(path):
    (_, of_two_layers, _), (_, of_five_layers, _) = (
        operators_of_a_step(path, **{"transformer.decoder.num_layers": num_layers}) for num_layers in (2, 5)
    )
    assert of_five_layers - of_two_layers <= 3 * 4
