"""Checkpoints of LW-DETR and RF-DETR with the names of their repositories and of transformers, which agree."""

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from detrex_lite.checkpoint import convert_state_dict, load_checkpoint
from detrex_lite.checkpoint.key_maps import COCO_IDS
from detrex_lite.config import get_config
from detrex_lite.structures import box_xyxy_to_cxcywh
from detrex_lite.testing import NUM_CLASSES, NUM_QUERIES, build_randomised, changed, make_input, predict

from ..projects.test_lwdetr import NUM_GROUPS, SMALL

TWO_LEVELS = {"neck.scales": [2.0, 0.5], "transformer.num_feature_levels": 2, "backbone.embed_dim": 32}
KINDS = {
    "lwdetr": ("lwdetr", "lwdetr_tiny", {}),
    "lwdetr, two levels": ("lwdetr", "lwdetr_large", {**TWO_LEVELS, "backbone.drop_path_rate": 0.0}),
    "lwdetr, squeezed": ("lwdetr", "lwdetr_xlarge", {**TWO_LEVELS, "neck.squeeze_above": 31}),
    "rfdetr": ("rfdetr", "rfdetr_nano", {}),
}


PARTS = ("put", "put_norm", "_class_embed", "_bbox_embed")


def build_model(kind, **changes):
    project, name, model_changes = KINDS[kind]
    cfg = get_config(f"projects/{project}/configs/models/{name}.py").model
    return build_randomised(changed(cfg, {**SMALL, **model_changes, **changes})).double().eval()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("published", ["repository", "transformers"])
def test_converting_to_published_names_and_back_restores_all_weights(kind, published):
    model = build_model(kind)
    target = KINDS[kind][0] if published == "repository" else "transformers"
    state = convert_state_dict(model.state_dict(), target)
    loaded = build_model(kind)
    for parameter in loaded.parameters():
        nn.init.zeros_(parameter)
    report = load_checkpoint(loaded, state)
    assert (report.key_map, report.missing, report.unexpected, report.mismatched) == (target, [], [], [])
    for name, value in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value)


@pytest.mark.parametrize("target", ["lwdetr", "transformers"])
def test_class_rows_are_indexed_by_coco_id(target):
    model = build_model("lwdetr", num_classes=80)
    state = convert_state_dict(model.state_dict(), target)
    prefix = "transformer." if target == "lwdetr" else "model."
    for name in ("class_embed", f"{prefix}enc_out_class_embed.0", f"{prefix}enc_out_class_embed.2"):
        assert state[f"{name}.weight"].shape == (91, 64)
    class_weight = model.heads.group_heads["2"]["class_embed"].weight
    assert torch.equal(state[f"{prefix}enc_out_class_embed.2.weight"][list(COCO_IDS)], class_weight)
    loaded = build_model("lwdetr", num_classes=80)
    report = load_checkpoint(loaded, state)
    assert (report.missing, report.unexpected, report.mismatched) == ([], [], [])
    assert torch.equal(loaded.heads.class_embed[0].weight, model.heads.class_embed[0].weight)


def test_groups_for_training_only_may_be_missing():
    model = build_model("lwdetr")
    state = convert_state_dict(model.state_dict(), "lwdetr")
    group_names = [
        name for name in state if any(f"enc_out{part}.{group}." in name for group in (1, 2) for part in PARTS)
    ]
    assert len(group_names) == 2 * 12
    report = load_checkpoint(model, {name: value for name, value in state.items() if name not in group_names})
    assert len(report.missing) == len(group_names)
    assert all(name.startswith(model.training_only) for name in report.missing)
    report.require_complete("evaluation")


def test_the_mask_token_of_the_backbone_is_ignored():
    model = build_model("rfdetr")
    name = "backbone.0.encoder.encoder.embeddings.mask_token"
    state = {**convert_state_dict(model.state_dict(), "rfdetr"), name: torch.zeros(1, 32)}
    assert load_checkpoint(model, state).unexpected == []


# Agreement with transformers

COMMON = {
    "d_model": 64,
    "decoder_layers": 2,
    "decoder_self_attention_heads": 4,
    "decoder_cross_attention_heads": 4,
    "decoder_ffn_dim": 96,
    "decoder_n_points": 2,
    "c2f_num_blocks": 1,
    "num_queries": NUM_QUERIES,
    "num_labels": NUM_CLASSES,
    "group_detr": NUM_GROUPS,
    "dropout": 0.0,
    "attn_implementation": "sdpa",
}


def lwdetr_of(transformers, scales):
    vit = transformers.LwDetrViTConfig(
        hidden_size=32,
        num_hidden_layers=4,
        num_attention_heads=4,
        image_size=64,
        pretrain_image_size=32,
        patch_size=8,
        num_windows=4,
        window_block_indices=[0, 2],
        out_indices=[2, 4],
    )
    points = {"decoder_n_points": 4} if len(scales) > 1 else {}
    config = transformers.LwDetrConfig(backbone_config=vit, projector_scale_factors=scales, **{**COMMON, **points})
    return transformers.LwDetrForObjectDetection(config)


def rfdetr_of(transformers):
    dino = transformers.RfDetrDinov2Config(
        hidden_size=32,
        num_hidden_layers=4,
        num_attention_heads=4,
        image_size=32,
        patch_size=8,
        num_windows=2,
        out_indices=[1, 4],
    )
    # This eps is used by all layer norms; in the repository those of the projector have 1e-6, too.
    config = transformers.RfDetrConfig(backbone_config=dino, layer_norm_eps=1e-6, **COMMON)
    return transformers.RfDetrForObjectDetection(config)


DETECTORS = {
    "lwdetr": (lambda library: lwdetr_of(library, [1.0]), {}, 1e-7),
    "lwdetr, two levels": (lambda library: lwdetr_of(library, [2.0, 0.5]), {}, 1e-7),
    # transformers interpolates positions in float32. Its two outputs are those of the first and the fourth block.
    "rfdetr": (
        rfdetr_of,
        {"backbone.global_blocks": [1], "backbone.out_blocks": [0, 3], "neck.norm": "LN"},
        1e-5,
    ),
}


@pytest.mark.parametrize("name", DETECTORS)
@pytest.mark.parametrize("side", [32, 64])
def test_outputs_agree_with_transformers(name, side, tmp_path):
    transformers = pytest.importorskip("transformers", minversion="5.23")
    transformers.logging.set_verbosity_error()
    build_reference, changes, tolerance = DETECTORS[name]
    torch.manual_seed(0)
    reference = build_reference(transformers).double().eval()
    for key, parameter in reference.named_parameters():  # initial weights are too small and too similar
        if parameter.dim() == 1:
            nn.init.normal_(parameter, mean=float("norm" in key and "weight" in key), std=0.2)
        else:
            nn.init.xavier_normal_(parameter)
    model = build_model(name, **changes)
    report = load_checkpoint(model, reference.state_dict())
    assert (report.key_map, report.missing, report.unexpected, report.mismatched) == ("transformers", [], [], [])
    names = set(convert_state_dict(model.state_dict(), "transformers"))
    assert names == {key for key in reference.state_dict() if "mask_token" not in key}
    reference.save_pretrained(tmp_path)  # files have other names: those of version 4, or of RF-DETR's repository
    report = load_checkpoint(model, str(tmp_path / "model.safetensors"))
    published = "rfdetr" if name == "rfdetr" else "transformers"
    assert (report.key_map, report.missing, report.unexpected, report.mismatched) == (published, [], [], [])
    # No cell centre of this image is so close to the border that transformers would not select it.
    image = make_input(side, side, [], [], seed=3)
    pixels = model.preprocess([image], as_published=False).tensor
    with torch.no_grad():
        expected = reference(pixel_values=pixels)
        actual = predict(model, [image])[""]
    assert_close(actual.logits, expected.logits, rtol=tolerance, atol=tolerance)
    assert_close(actual.boxes, expected.pred_boxes, rtol=tolerance, atol=tolerance)
    assert actual.logits.std() > 1e-2
    boxes = model([image])[0]["instances"].pred_boxes.tensor
    assert box_xyxy_to_cxcywh(boxes).isfinite().all()
