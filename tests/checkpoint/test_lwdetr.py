"""Checkpoints of LW-DETR and RF-DETR: their repositories' names, transformers' names, and agreement with the latter."""

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


def ours(kind, **changes):
    project, name, its = KINDS[kind]
    cfg = get_config(f"projects/{project}/configs/models/{name}.py").model
    return build_randomised(changed(cfg, {**SMALL, **its, **changes})).double().eval()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("published", ["repository", "transformers"])
def test_names_are_written_and_read_again(kind, published):
    model = ours(kind)
    target = KINDS[kind][0] if published == "repository" else "transformers"
    state = convert_state_dict(model.state_dict(), target)
    loaded = ours(kind)
    for parameter in loaded.parameters():
        nn.init.zeros_(parameter)
    report = load_checkpoint(loaded, state)
    assert (report.key_map, report.missing, report.unexpected, report.mismatched) == (target, [], [], [])
    for name, value in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value)


@pytest.mark.parametrize("target", ["lwdetr", "transformers"])
def test_rows_of_classes_are_numbered_by_coco(target):
    model = ours("lwdetr", num_classes=80)
    state = convert_state_dict(model.state_dict(), target)
    before = "transformer." if target == "lwdetr" else "model."
    for name in ("class_embed", f"{before}enc_out_class_embed.0", f"{before}enc_out_class_embed.2"):
        assert state[f"{name}.weight"].shape == (91, 64)
    own = model.heads.group_heads["2"]["class_embed"].weight
    assert torch.equal(state[f"{before}enc_out_class_embed.2.weight"][list(COCO_IDS)], own)
    loaded = ours("lwdetr", num_classes=80)
    report = load_checkpoint(loaded, state)
    assert (report.missing, report.unexpected, report.mismatched) == ([], [], [])
    assert torch.equal(loaded.heads.class_embed[0].weight, model.heads.class_embed[0].weight)


def test_groups_that_evaluation_does_not_use_may_be_missing():
    model = ours("lwdetr")
    state = convert_state_dict(model.state_dict(), "lwdetr")
    of_groups = [name for name in state if any(f"enc_out{part}.{group}." in name for group in (1, 2) for part in PARTS)]
    assert len(of_groups) == 2 * 12
    report = load_checkpoint(model, {name: value for name, value in state.items() if name not in of_groups})
    assert len(report.missing) == len(of_groups)
    assert all(name.startswith(model.training_only) for name in report.missing)
    report.require_complete("evaluation")


def test_the_token_of_masked_patches_is_left_out():
    model = ours("rfdetr")
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
    # The eps of all layer norms, those of the projector too, which have 1e-6 in the repository.
    config = transformers.RfDetrConfig(backbone_config=dino, layer_norm_eps=1e-6, **COMMON)
    return transformers.RfDetrForObjectDetection(config)


DETECTORS = {
    "lwdetr": (lambda library: lwdetr_of(library, [1.0]), {}, 1e-7),
    "lwdetr, two levels": (lambda library: lwdetr_of(library, [2.0, 0.5]), {}, 1e-7),
    # It interpolates positions in float32. After the first block its output, after the fourth the other.
    "rfdetr": (
        rfdetr_of,
        {"backbone.global_blocks": [1], "backbone.out_blocks": [0, 3], "neck.norm": "LN"},
        1e-5,
    ),
}


@pytest.mark.parametrize("name", DETECTORS)
@pytest.mark.parametrize("side", [32, 64])
def test_agreement_with_transformers(name, side, tmp_path):
    transformers = pytest.importorskip("transformers", minversion="5.23")
    transformers.logging.set_verbosity_error()
    make, changes, tolerance = DETECTORS[name]
    torch.manual_seed(0)
    theirs = make(transformers).double().eval()
    for key, parameter in theirs.named_parameters():  # fresh weights are too small and too alike
        if parameter.dim() == 1:
            nn.init.normal_(parameter, mean=float("norm" in key and "weight" in key), std=0.2)
        else:
            nn.init.xavier_normal_(parameter)
    model = ours(name, **changes)
    report = load_checkpoint(model, theirs.state_dict())
    assert (report.key_map, report.missing, report.unexpected, report.mismatched) == ("transformers", [], [], [])
    names = set(convert_state_dict(model.state_dict(), "transformers"))
    assert names == {key for key in theirs.state_dict() if "mask_token" not in key}
    theirs.save_pretrained(tmp_path)  # under other names: those of version 4, and of RF-DETR's repository
    report = load_checkpoint(model, str(tmp_path / "model.safetensors"))
    published = "rfdetr" if name == "rfdetr" else "transformers"
    assert (report.key_map, report.missing, report.unexpected, report.mismatched) == (published, [], [], [])
    # No centre of a cell lies so near to the border that transformers would never take it, as the repository does.
    image = make_input(side, side, [], [], seed=3)
    pixels = model.preprocess([image], as_published=False).tensor
    with torch.no_grad():
        want = theirs(pixel_values=pixels)
        got = predict(model, [image])[""]
    assert_close(got.logits, want.logits, rtol=tolerance, atol=tolerance)
    assert_close(got.boxes, want.pred_boxes, rtol=tolerance, atol=tolerance)
    assert got.logits.std() > 1e-2
    boxes = model([image])[0]["instances"].pred_boxes.tensor
    assert box_xyxy_to_cxcywh(boxes).isfinite().all()
