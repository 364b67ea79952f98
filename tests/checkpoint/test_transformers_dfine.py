"""Agreement with transformers' D-FINE, from the state dicts and the files of its models."""

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from detrex_lite.checkpoint import load_checkpoint
from detrex_lite.config import get_config
from detrex_lite.testing import NUM_CLASSES, NUM_QUERIES, build, changed, make_input, predict

transformers = pytest.importorskip("transformers", minversion="5")
transformers.logging.set_verbosity_error()
transformers.logging.disable_progress_bar()

CONSTANTS = ("num_points_scale", "up", "reg_scale")


@pytest.fixture(scope="module")
def reference():
    """A small reference model whose statistics and norms do not have their initial values."""
    backbone = transformers.HGNetV2Config(
        stem_channels=[3, 16, 16],
        embedding_size=16,
        stage_in_channels=[16, 64, 256, 512],
        stage_mid_channels=[16, 32, 64, 128],
        stage_out_channels=[64, 256, 512, 1024],
        hidden_sizes=[64, 256, 512, 1024],
        stage_num_blocks=[1, 1, 2, 1],
        stage_numb_of_layers=[3, 3, 3, 3],
        use_learnable_affine_block=True,
        out_features=["stage2", "stage3", "stage4"],
    )
    config = transformers.DFineConfig(
        backbone_config=backbone,
        freeze_backbone_batch_norms=False,
        encoder_in_channels=[256, 512, 1024],
        encoder_hidden_dim=32,
        encoder_ffn_dim=64,
        encoder_attention_heads=4,
        hidden_expansion=0.5,
        depth_mult=0.34,
        d_model=32,
        decoder_in_channels=[32, 32, 32],
        decoder_ffn_dim=96,
        decoder_attention_heads=4,
        decoder_n_points=[3, 6, 3],
        decoder_layers=2,
        head_dim=8,
        num_queries=NUM_QUERIES,
        num_labels=NUM_CLASSES,
    )
    torch.manual_seed(0)
    model = transformers.DFineForObjectDetection(config).double().eval()
    for name, value in model.state_dict().items():
        if name.endswith(CONSTANTS):
            continue
        if "running_var" in name or (value.dim() == 1 and "norm" in name and name.endswith("weight")):
            nn.init.uniform_(value, 0.5, 1.5)
        elif value.dim() == 1 and value.is_floating_point():
            nn.init.normal_(value, std=0.2)
        elif value.dim() > 1:
            nn.init.xavier_normal_(value)
    return model


def build_model():
    cfg = get_config("projects/dfine/configs/models/dfine_small.py").model
    small = {
        "num_classes": NUM_CLASSES,
        "num_queries": NUM_QUERIES,
        "embed_dim": 32,
        "neck.hidden_dim": 32,
        "neck.encoder.layer.ffn.feedforward_dim": 64,
        "transformer.decoder.layer.ffn.feedforward_dim": 96,
        "transformer.decoder.num_layers": 2,
        "transformer.decoder.position_head.hidden_dim": 64,
    }
    return build(changed(cfg, small)).double().eval()


@pytest.mark.parametrize("stored", ["model", "file"])
def test_detections_agree(reference, stored, tmp_path):
    """Models have the names of version 5; files that they save have the names of version 4."""
    weights = reference.state_dict()
    if stored == "file":
        reference.save_pretrained(tmp_path)
        weights = tmp_path / "model.safetensors"
    model = build_model()
    report = load_checkpoint(model, weights)
    report.require_complete("transformers")
    assert (report.key_map, report.unexpected) == ("transformers", [])
    image = make_input(96, 96, [], [])
    image["image"] = image["image"].double()
    with torch.no_grad():
        expected = reference(pixel_values=image["image"][None] / 255)
        actual = predict(model, [image])[""]
    assert actual.logits.std() > 0.1
    assert_close(actual.logits, expected.logits, rtol=1e-6, atol=1e-6)  # transformers rounds 1/3 to float32
    assert_close(actual.boxes, expected.pred_boxes, rtol=1e-6, atol=1e-6)
