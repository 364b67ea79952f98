"""Tests that every detector must pass, for this repository and for others that implement a detector.

It needs pytest, and the rest of `detrex_lite` does not import it. A test file of another repository is

    from detrex_lite.config import get_config
    from detrex_lite.testing import SMALL, DetectorContract, changed


    class TestMine(DetectorContract):
        def config(self, **changes):
            cfg = get_config("projects/detr/configs/models/detr_r50.py").model  # or your own config
            return changed(cfg, {**SMALL, **changes})

No conftest is needed. Tests that compile are marked `slow`: `pytest -m "not slow"` skips them, and
`markers = ["slow: takes some time"]` in your settings registers the mark with pytest.
"""

# ruff: noqa: E402 - modules with assertions are registered before they are imported
import pytest

pytest.register_assert_rewrite("detrex_lite.testing.contract", "detrex_lite.testing.models")

from .configs import SMALL, SMALL_TRANSFORMER, changed, without_dropout
from .contract import DeformableContract, DenoisingContract, DetectorContract, TwoStageContract
from .fake_gpu import losses_on_a_fake_gpu
from .inputs import NUM_CLASSES, NUM_QUERIES, make_batch, make_input
from .models import (
    build,
    build_on_meta,
    build_randomised,
    has_gradient,
    loss_names,
    parameter_patterns,
    predict,
    require_all_gradients,
)

__all__ = [
    "NUM_CLASSES",
    "NUM_QUERIES",
    "SMALL",
    "SMALL_TRANSFORMER",
    "DeformableContract",
    "DenoisingContract",
    "DetectorContract",
    "TwoStageContract",
    "build",
    "build_on_meta",
    "build_randomised",
    "changed",
    "has_gradient",
    "loss_names",
    "losses_on_a_fake_gpu",
    "make_batch",
    "make_input",
    "parameter_patterns",
    "predict",
    "require_all_gradients",
    "without_dropout",
]
