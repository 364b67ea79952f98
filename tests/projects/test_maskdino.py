"""Mask DINO as a whole, and the use of its masks in other detectors. Models are small."""

import pytest
import torch
from torch.testing import assert_close

from detrex_lite.checkpoint import convert_state_dict, load_checkpoint
from detrex_lite.config import LazyCall as L
from detrex_lite.config import get_config
from detrex_lite.modeling import PositiveDenoising, presnet_channels, resnet_channels
from detrex_lite.modeling.deformable.proposals import token_anchors
from detrex_lite.modeling.masks import MASK_EMBEDDING, boxes_of_masks
from detrex_lite.testing import (
    NUM_CLASSES,
    NUM_QUERIES,
    SMALL,
    DeformableContract,
    DenoisingContract,
    build,
    build_on_meta,
    build_randomised,
    changed,
    make_batch,
    predict,
    require_all_gradients,
    without_dropout,
)
from tests.suites import first_always

from .overfitting import overfitted_ap50, small_deformable
from .published import PROJECTS

CONFIGS = PROJECTS / "maskdino" / "configs"
KINDS = ("class", "bbox", "giou", "mask", "dice")


def small_config(name="maskdino_r50", **changes):
    cfg = get_config(f"projects/maskdino/configs/models/{name}.py").model
    small = {**SMALL, "denoising.num_positives": 6, "num_mask_points": 48, "preprocess.size_divisibility": 4}
    return changed(cfg, {**small, **changes})


class TestMaskDINO(DenoisingContract, DeformableContract):
    num_groups = 3  # six positives, and at most two objects in an image
    aux_suffixes = frozenset({"_0", "_1", "_dn_0", "_dn_1"})  # before the first layer and after it
    other_suffixes = frozenset({"_enc", "_dn"})
    loss_kinds = KINDS

    def config(self, **changes):
        return small_config(**changes)

    def test_masks_are_the_same_alone_and_in_a_padded_batch(self, batch):
        model = build_randomised(self.config()).double().eval()
        with torch.no_grad():
            for record, padded in zip(batch, model(batch), strict=True):
                (alone,) = model([record])
                masks = alone["instances"].pred_masks
                assert masks.shape == (len(alone["instances"]), record["height"], record["width"])
                assert masks.dtype == torch.bool
                assert (padded["instances"].pred_masks != masks).double().mean() < 1e-4


@pytest.mark.parametrize("path", first_always(sorted(CONFIGS.glob("**/maskdino_*.py"))), ids=lambda path: path.stem)
def test_every_config_builds(path):
    pytest.importorskip("timm", reason="the package timm is not installed")
    model, cfg = build_on_meta(path)
    assert model.heads.num_layers == cfg.transformer.decoder.num_layers
    assert isinstance(model.denoising, PositiveDenoising)
    assert (model.panoptic_postprocessor is not None) == ("panoptic" in path.stem)


def test_the_encoder_and_all_layers_share_their_heads():
    heads = build(small_config()).heads
    for layer_heads in (heads.class_embed, heads.bbox_embed, heads.extra_embed[MASK_EMBEDDING]):
        assert len(layer_heads) == 3
        assert all(head is layer_heads[0] for head in layer_heads)


def randomised_predictions(**changes):
    model = build_randomised(without_dropout(small_config(denoising=None, **changes))).double().eval()
    # Initial values of the norm must change, so that applying it twice makes a difference.
    torch.nn.init.normal_(model.heads.norm.weight, mean=1.0, std=0.5)
    torch.nn.init.normal_(model.heads.norm.bias)
    recorded = {}
    decoder = model.transformer.decoder
    decoder.register_forward_pre_hook(lambda module, args: recorded.update(queries=args[0], memory=args[1]))
    for index, layer in enumerate(decoder.layers):
        layer.register_forward_hook(lambda module, args, out, index=index: recorded.update({index: out}))
    with torch.no_grad():
        named = predict(model, make_batch()[:1], targets=True)
    return model, named, recorded


def test_classes_and_masks_are_predicted_after_two_norms_and_boxes_after_one():
    model, named, recorded = randomised_predictions()
    heads = model.heads
    with torch.no_grad():
        for name, index in (("_1", 0), ("", 1)):
            once = heads.norm(recorded[index])
            assert_close(named[name].logits, heads.class_embed[0](heads.norm(once)))
            embeddings = heads.extra_embed[MASK_EMBEDDING][0](heads.norm(once))
            assert_close(named[name].extra[MASK_EMBEDDING], embeddings)
        content = recorded["queries"].content
        assert_close(named["_0"].logits, heads.class_embed[0](heads.norm(content)))
        assert_close(named["_0"].boxes, recorded["queries"].reference)
        refined = heads.boxes(heads.bbox_embed[0](heads.norm(recorded[0])), recorded["queries"].reference)
        assert_close(named["_1"].boxes, refined)


def test_initial_references_are_the_boxes_of_masks():
    _, named, recorded = randomised_predictions()
    boxes = boxes_of_masks(named["_enc"].extra[MASK_EMBEDDING], named["_enc"].mask_features)
    assert_close(recorded["queries"].reference, boxes)
    _, named, recorded = randomised_predictions(**{"queries.mask_boxes": False})
    assert_close(recorded["queries"].reference, named["_enc"].boxes)


def test_levels_of_tokens_and_anchors_are_ordered_from_coarse_to_fine():
    model, _, recorded = randomised_predictions()
    levels = recorded["memory"].levels
    sizes = [height * width for height, width in levels.spatial_shapes]
    assert sizes == sorted(sizes)
    anchors, _ = token_anchors(levels)
    sides = [part[0, 0, 2].item() for part in anchors.split(sizes, dim=1)]
    assert sides == pytest.approx([0.05, 0.1, 0.2, 0.4])
    model.transformer.coarsest_first = False
    with torch.no_grad():
        assert (
            recorded["memory"].levels.reversed().spatial_shapes
            == model.encode(model.preprocess(make_batch()[:1], as_published=True)).levels.spatial_shapes
        )


@pytest.mark.parametrize("name", ["maskdino_r50", "maskdino_r50_panoptic"])
def test_converting_to_the_names_of_the_authors_and_back_restores_all_weights(name):
    model, loaded = build(small_config(name)), build(small_config(name), seed=1)
    state = convert_state_dict(model.state_dict(), "maskdino")
    names = ("_bbox_embed", "bbox_embed.1", "decoder.bbox_embed.1")
    assert {f"sem_seg_head.predictor.{name}.layers.2.bias" for name in names} <= set(state)
    assert not [key for key in state if not key.startswith(("backbone.", "sem_seg_head."))]
    report = load_checkpoint(loaded, state)
    assert (report.missing, report.unexpected, report.mismatched) == ([], [], [])
    for key, value in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[key], value)


@pytest.mark.slow
def test_masks_of_four_images_are_overfitted(tmp_path):
    cfg = small_deformable(get_config("projects/maskdino/configs/models/maskdino_small.py").model)
    cfg.backbone.out_features = ["res2", "res3", "res4"]
    assert overfitted_ap50(changed(cfg, {"num_mask_points": 200}), tmp_path, 400, masks=True) > 0.9


def with_masks(cfg, **changes):
    """The small config of a detector with the common mask branch."""
    cfg.merge_with(get_config("common/masks.py").masks)
    return changed(cfg, {"num_mask_points": 48, "backbone.out_features": ["res2", "res3", "res4", "res5"], **changes})


def dino(name):
    cfg = with_masks(get_config(f"projects/{name}/configs/models/{name}_r50.py").model, **SMALL)
    cfg.neck.in_channels = L(resnet_channels)(depth=18, out_features=["res3", "res4", "res5"])
    if "num_queries_one2many" in cfg and name == "relation_detr":
        cfg.num_queries_one2many = 2 * NUM_QUERIES
    return changed(cfg, {"denoising.num_pairs": 6})


def rtdetr():
    cfg = get_config("projects/rtdetr/configs/models/rtdetrv2_small.py").model
    channels = cfg.neck.in_channels.copy()
    features = list(cfg.backbone.out_features)
    small = {"num_classes": NUM_CLASSES, "num_queries": NUM_QUERIES, "embed_dim": 64, "neck.hidden_dim": 32}
    cfg = with_masks(cfg, **small, **{"denoising.num_pairs": 6, "backbone.out_features": ["res2", *features]})
    cfg.neck.in_channels = changed(channels, {"out_features": features})
    cfg.mask_branch.in_channels._target_ = presnet_channels
    return cfg


DETECTORS = {"dino": lambda: dino("dino"), "relation_detr": lambda: dino("relation_detr"), "rtdetr": rtdetr}


@pytest.mark.parametrize("name", DETECTORS)
def test_other_detectors_support_masks_by_config(name):
    model, batch = build(DETECTORS[name]()).train(), make_batch()
    losses = model(batch)
    assert {"loss_mask", "loss_dice", "loss_mask_0", "loss_dice_dn", "loss_mask_enc"} <= set(losses)
    require_all_gradients(model, losses)
    with torch.no_grad():
        for record, detected in zip(batch, model.eval()(batch), strict=True):
            assert detected["instances"].pred_masks.shape[1:] == (record["height"], record["width"])


@pytest.mark.parametrize("name", first_always(DETECTORS))
def test_other_detectors_learn_masks(name):
    torch.manual_seed(0)
    model, batch = build(changed(DETECTORS[name](), {"denoising": None})).train(), make_batch()[:1]
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    history = []
    for _ in range(25):
        losses = model(batch)
        optimizer.zero_grad()
        torch.stack(list(losses.values())).sum().backward()
        optimizer.step()
        history.append(float(losses["loss_mask"].detach() + losses["loss_dice"].detach()))
    assert sum(history[-3:]) < 0.6 * sum(history[:3])


def test_incomplete_parts_of_masks_raise_an_error():
    with pytest.raises(ValueError, match=r"mask_branch is given alone.*mask_embedding"):
        build(small_config(**{"heads.extra": None}))
    with pytest.raises(ValueError, match=r"mask_embedding is given alone.*mask_branch"):
        build(small_config(mask_branch=None))
    with pytest.raises(ValueError, match="num_mask_points=48"):
        build(small_config(mask_branch=None, **{"heads.extra": None}))


def test_panoptic_models_return_segments_and_things():
    model = build_randomised(small_config("maskdino_r50_panoptic", **{"postprocessor.num_things": 2})).eval()
    model.panoptic_postprocessor.num_things = 2
    model.panoptic_postprocessor.threshold = 0.0
    batch = make_batch()
    with torch.no_grad():
        for record, detected in zip(batch, model(batch), strict=True):
            ids, segments = detected["panoptic_seg"]
            assert ids.shape == (record["height"], record["width"])
            assert ids.dtype == torch.int32
            assert {segment["id"] for segment in segments} | {0} >= set(ids.unique().tolist())
            assert all(segment["isthing"] == (segment["category_id"] < 2) for segment in segments)
            assert (detected["instances"].pred_classes < 2).all()
            assert len(detected["instances"].pred_masks) == len(detected["instances"])
