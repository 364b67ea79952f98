import sys

import pytest
import torch

from detrex_lite.tools.benchmark.building import build_model, load_model_config, synthetic_batch
from detrex_lite.tools.benchmark.errors import BenchmarkError
from detrex_lite.tools.benchmark.transformers_models import (
    plan_transformers_model,
    transformers_inputs,
    transformers_labels,
)

from .configs import DETR, SMALL_DETR

CONDITIONAL = "detrex_lite.modeling.single_level.ConditionalDecoder"
DEFORMABLE = "projects/deformable_detr/configs/models/deformable_detr_r50.py"
SMALL_DEFORMABLE = (
    "model.backbone.depth=18",
    "model.backbone.freeze_at=2",
    "model.num_classes=5",
    "model.num_queries=12",
    "model.embed_dim=64",
    "model.position_embedding.num_pos_feats=32",
    "model.transformer.encoder.layer.ffn.feedforward_dim=96",
    "model.transformer.encoder.layer.attn.num_points=3",
    "model.transformer.encoder.num_layers=1",
    "model.transformer.decoder.num_layers=2",
)


@pytest.mark.parametrize("two_stage", [False, True])
def test_deformable_detr_of_transformers_has_the_config_and_trains(two_stage):
    pytest.importorskip("transformers")
    options = [f"model.with_box_refine={two_stage}", f"model.as_two_stage={two_stage}"]
    cfg = load_model_config(DEFORMABLE, [*SMALL_DEFORMABLE, *options])
    torch.manual_seed(0)
    model = plan_transformers_model(cfg)().train()
    trainable_parameters = [
        sum(p.numel() for p in instance.parameters() if p.requires_grad) for instance in (model, build_model(cfg))
    ]
    assert trainable_parameters[0] == trainable_parameters[1]
    batch = synthetic_batch(1, 64, 64, num_classes=5)
    pixels, labels = transformers_inputs(batch, cfg, "cpu"), transformers_labels(batch, "cpu")
    out = model(pixel_values=pixels, labels=labels)
    assert out.logits.shape == (1, 12, 5)
    out.loss.backward()
    backbone = {name: p.grad is not None for name, p in model.named_parameters() if ".backbone." in name}
    assert {name.split(".stages.")[1][0] for name, learns in backbone.items() if learns} == {"1", "2", "3"}


def test_dino_is_compared_with_deformable_detr():
    transformers = pytest.importorskip("transformers")
    cfg = load_model_config("projects/dino/configs/models/dino_r50.py", SMALL_DEFORMABLE)
    model = plan_transformers_model(cfg)()
    assert isinstance(model, transformers.DeformableDetrForObjectDetection)
    assert model.config.two_stage
    assert model.config.with_box_refine


def test_labels_and_pixels_are_in_the_format_of_transformers():
    batch = synthetic_batch(1, 40, 80, num_classes=5)
    (labels,) = transformers_labels(batch, torch.device("cpu"))
    x0, y0, x1, y1 = batch[0]["instances"].gt_boxes.tensor[0].tolist()
    assert labels["boxes"][0].tolist() == pytest.approx(
        [(x0 + x1) / 160, (y0 + y1) / 80, (x1 - x0) / 80, (y1 - y0) / 40]
    )
    pixels = transformers_inputs(batch, load_model_config(DETR), torch.device("cpu"))
    assert float(pixels[0, 0, 0, 0]) == pytest.approx((float(batch[0]["image"][0, 0, 0]) - 123.675) / 58.395)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("model._target_=torch.nn.Linear", "no model .*'Linear'.*DETR, MultiScaleDetector"),
        ("model.transformer.encoder.layer.operation_order=[norm,self_attn,norm,ffn]", "encoder.layer.operation_order"),
        (f"model.transformer.decoder._target_={CONDITIONAL}", "no ConditionalDecoder"),
        ("model.backbone.norm=BN", "norm=BN; add model.backbone.norm=FrozenBN"),
        ("+model.backbone.dilation=True", "no backbone with dilation=True"),
        ("model.backbone._target_=timm.create_model", "only ResNet backbones can be compared"),
        ("~model.transformer.encoder.num_layers", "of SingleLevelEncoder does not set num_layers"),
    ],
)
def test_models_without_an_equivalent_in_transformers_raise(override, message):
    pytest.importorskip("transformers")
    cfg = load_model_config(DETR, [*SMALL_DETR, override])
    with pytest.raises(BenchmarkError, match=message):
        plan_transformers_model(cfg)


def test_missing_transformers_raises_with_the_install_command(monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(BenchmarkError, match="needs that package: pip install transformers"):
        plan_transformers_model(load_model_config(DETR))
