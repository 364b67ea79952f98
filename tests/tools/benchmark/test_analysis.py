import json

import pytest
import torch
from torch import nn

from detrex_lite.ops import multi_scale_deformable_attention
from detrex_lite.structures import Instances
from detrex_lite.tools.benchmark.analysis import analyze_config, analyze_model
from detrex_lite.tools.benchmark.errors import BenchmarkError

from .configs import DETR, SMALL_DETR, TINY


def parts_of(analysis):
    return {part.name: part for part in analysis.parts}


def test_flops_and_parameters_of_two_linear_layers():
    analysis = analyze_config(TINY, height=8, width=12)
    parts = parts_of(analysis)
    assert analysis.model == "TinyDetector"
    assert analysis.whole.flops == 2 * (3 * 8 + 8 * 7)
    assert parts["backbone"].flops == 2 * 3 * 8
    assert parts["head"].parameters == 8 * 7 + 7
    assert parts["norm"].flops == 0
    assert "native_layer_norm" in analysis.uncounted
    assert "addmm" not in analysis.uncounted


def encoder_layer(tokens, channels, hidden):
    """Multiply-accumulates: four projections, two products of attention, two of the FFN."""
    return 4 * tokens * channels**2 + 2 * tokens**2 * channels + 2 * tokens * channels * hidden


def decoder_layer(queries, tokens, channels, hidden):
    self_attention = 4 * queries * channels**2 + 2 * queries**2 * channels
    cross_attention = 2 * (queries + tokens) * channels**2 + 2 * queries * tokens * channels
    return self_attention + cross_attention + 2 * queries * channels * hidden


def test_flops_of_a_small_detr_equal_the_formulas():
    analysis = analyze_config(DETR, SMALL_DETR, height=64, width=96)
    parts, tokens = parts_of(analysis), 2 * 3
    assert parts["transformer.encoder"].flops == 2 * encoder_layer(tokens, 64, 96)
    assert parts["transformer.decoder"].flops == 2 * 2 * decoder_layer(12, tokens, 64, 96)
    assert parts["input_proj"].flops == 2 * tokens * 512 * 64
    top = [part for part in analysis.parts if part.level == 1]
    assert sum(part.flops for part in top) == analysis.whole.flops
    assert sum(part.parameters for part in top) == analysis.whole.parameters
    assert analysis.whole.parameters - analysis.whole.trainable == 7 * 7 * 3 * 64  # the stem is frozen
    assert "criterion" not in parts


def test_detr_r50_has_the_published_parameters_and_flops():
    # DETR's training log gives "number of params: 41302368", which counts trainable parameters.
    overrides = ["model.num_classes=91", "model.backbone.freeze_at=2"]
    analysis = analyze_config(DETR, overrides, height=224, width=224)
    assert analysis.whole.trainable == 41_302_368
    # torchvision's model card of ResNet-50 gives 4.089 GMAC at this size, including the class head of 2048 x 1000.
    assert parts_of(analysis)["backbone"].flops / 2e9 + 2048 * 1000 / 1e9 == pytest.approx(4.089, abs=0.001)
    assert parts_of(analysis)["transformer"].flops == 2 * 6 * (
        encoder_layer(49, 256, 2048) + decoder_layer(100, 49, 256, 2048)
    )


@pytest.mark.slow
def test_flops_of_detr_r50_on_coco_enclose_the_published_mean():
    # The paper's 86 GMAC are a mean over images of COCO, most of which are between 800 and 1333 wide.
    sizes = {width: analyze_config(DETR, height=800, width=width).whole.flops / 2e9 for width in (800, 1333)}
    assert sizes[800] < 86 < sizes[1333]
    assert sizes[1333] == pytest.approx(101.7, abs=0.1)


class Sampler(nn.Module):
    """A detector that consists of deformable attention, a parameter and a frozen layer."""

    SHAPES = ((4, 6), (2, 3))

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))
        self.frozen = nn.Linear(2, 2).requires_grad_(False)

    def forward(self, batched_inputs):
        (record,) = batched_inputs
        value = record["image"].float().mean() * self.scale * torch.ones(1, 30, 2, 8)
        locations, weights = torch.full((1, 5, 2, 2, 3, 2), 0.5), torch.ones(1, 5, 2, 2, 3)
        out = multi_scale_deformable_attention(value, self.SHAPES, locations, weights)
        return [{"instances": Instances((record["height"], record["width"]), scores=out.mean(-1)[0])}]


def test_deformable_attention_counts_four_neighbours_of_each_sample():
    analysis = analyze_model(Sampler(), height=8, width=8)
    assert analysis.whole.flops == 2 * (5 * 2 * 2 * 3) * 4 * 8
    parts = parts_of(analysis)
    assert parts["(outside of these)"].flops == analysis.whole.flops
    assert parts["(outside of these)"].parameters == 1
    assert parts["frozen"].trainable == 0


def test_the_report_defines_a_flop_and_lists_uncounted_operators():
    analysis = analyze_config(DETR, SMALL_DETR, height=32, width=32)
    text = str(analysis)
    assert "1 multiply-accumulate (MAC) is 2 FLOPs" in text
    assert "\n  transformer" in text
    assert "\n    encoder" in text
    assert "native_layer_norm (" in text
    stored = json.loads(json.dumps(analysis.as_json()))
    assert stored["parts"][0]["flops"] == analysis.whole.flops


def test_an_image_size_of_0_raises():
    with pytest.raises(BenchmarkError, match="width must be 1 or more, got 0"):
        analyze_config(TINY, height=8, width=0)
