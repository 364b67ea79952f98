"""Agreement with transformers' RT-DETR and RT-DETRv2, from the state dicts of its models."""

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from detrex_lite.checkpoint import load_checkpoint
from detrex_lite.config import get_config
from detrex_lite.testing import NUM_CLASSES, NUM_QUERIES, build, changed, make_input, predict

transformers = pytest.importorskip("transformers", minversion="5")
transformers.logging.set_verbosity_error()

POINTS = "transformer.decoder.layer.attn[1].num_points"
SAMPLING = "transformer.decoder.layer.attn[1].sampling"


def build_reference(kind, **options):
    """A small reference model whose statistics and norms do not have their initial values."""
    backbone = transformers.RTDetrResNetConfig(
        depths=[2, 2, 2, 2],
        layer_type="basic",
        hidden_sizes=[64, 128, 256, 512],
        out_features=["stage2", "stage3", "stage4"],
    )
    config = getattr(transformers, f"{kind}Config")(
        backbone_config=backbone,
        encoder_in_channels=[128, 256, 512],
        encoder_hidden_dim=32,
        encoder_ffn_dim=64,
        encoder_attention_heads=4,
        hidden_expansion=0.5,
        d_model=64,
        decoder_in_channels=[32, 32, 32],
        decoder_ffn_dim=96,
        decoder_attention_heads=4,
        decoder_layers=2,
        num_queries=NUM_QUERIES,
        num_labels=NUM_CLASSES,
        anchor_image_size=None,
        **options,
    )
    torch.manual_seed(0)
    model = getattr(transformers, f"{kind}ForObjectDetection")(config).double().eval()
    for name, value in model.state_dict().items():
        if "running_var" in name or (value.dim() == 1 and "norm" in name and name.endswith("weight")):
            nn.init.uniform_(value, 0.5, 1.5)
        elif value.dim() == 1 and value.is_floating_point() and "n_points_scale" not in name:
            nn.init.normal_(value, std=0.2)
        elif value.dim() > 1:
            nn.init.xavier_normal_(value)
    return model


def build_model(**changes):
    cfg = get_config("projects/rtdetr/configs/models/rtdetrv2_small.py").model
    small = {
        "num_classes": NUM_CLASSES,
        "num_queries": NUM_QUERIES,
        "embed_dim": 64,
        "neck.hidden_dim": 32,
        "neck.encoder.layer.ffn.feedforward_dim": 64,
        "neck.fusion.num_blocks": 3,
        "transformer.decoder.layer.ffn.feedforward_dim": 96,
        "transformer.decoder.num_layers": 2,
        "transformer.decoder.position_head.hidden_dim": 128,
    }
    return build(changed(cfg, {**small, **changes})).double().eval()


@pytest.mark.parametrize(
    ("kind", "options", "changes"),
    [
        ("RTDetr", {}, {}),
        ("RTDetrV2", {}, {}),
        ("RTDetrV2", {"decoder_method": "discrete"}, {SAMPLING: "discrete"}),
        ("RTDetrV2", {"decoder_n_points": 2}, {POINTS: 2}),
    ],
    ids=["v1", "v2", "discrete", "points"],
)
def test_detections_agree(kind, options, changes):
    reference, model = build_reference(kind, **options), build_model(**changes)
    report = load_checkpoint(model, reference.state_dict())
    report.require_complete("transformers")
    assert report.key_map == "transformers"
    assert report.unexpected == []
    image = make_input(96, 96, [], [])
    image["image"] = image["image"].double()
    with torch.no_grad():
        expected = reference(pixel_values=image["image"][None] / 255)
        actual = predict(model, [image])[""]
    assert actual.logits.std() > 0.1
    assert_close(actual.logits, expected.logits, rtol=1e-6, atol=1e-6)
    assert_close(actual.boxes, expected.pred_boxes, rtol=1e-6, atol=1e-6)


def test_names_of_version_4_load():
    state = build_reference("RTDetr").state_dict()
    old_state = {
        name.replace("o_proj", "out_proj").replace(".mlp.", ".").replace("encoder.aifi", "encoder.encoder"): value
        for name, value in state.items()
    }
    assert old_state.keys() != state.keys()
    report = load_checkpoint(build_model(), old_state)
    report.require_complete("version 4")
    assert report.unexpected == []
