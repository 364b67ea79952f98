"""DETR with masks: the mask head against a loop over queries, frozen detectors, weights. Models are small."""

import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close

from detrex_lite.checkpoint import convert_state_dict, load_checkpoint
from detrex_lite.config import get_config
from detrex_lite.modeling.masks import MASK_LOGITS
from detrex_lite.modeling.single_level import AttentionMaskHead
from detrex_lite.structures import ImageBatch
from detrex_lite.testing import (
    NUM_QUERIES,
    SMALL,
    DetectorContract,
    build,
    build_randomised,
    changed,
    make_batch,
    predict,
    require_all_gradients,
)

from .overfitting import SMALL_SINGLE_LEVEL, overfitted_ap50


def small_config(**changes):
    cfg = get_config("projects/detr/configs/models/detr_r50_panoptic.py").model
    return changed(cfg, {**SMALL, **changes})


class TestDETRSegmentation(DetectorContract):
    def config(self, **changes):
        return small_config(**changes)

    def expected_losses(self, *, aux_loss=True):
        return super().expected_losses(aux_loss=aux_loss) | {"loss_mask", "loss_dice"}

    def test_masks_are_the_same_alone_and_in_a_padded_batch(self, batch):
        model = build_randomised(self.config()).double().eval()
        with torch.no_grad():
            for record, padded in zip(batch, model(batch), strict=True):
                (alone,) = model([record])
                masks = alone["instances"].pred_masks
                assert masks.shape == (NUM_QUERIES, record["height"], record["width"])
                assert masks.dtype == torch.bool
                assert (padded["instances"].pred_masks != masks).double().mean() < 1e-4
                assert torch.equal(padded["panoptic_seg"][0], alone["panoptic_seg"][0])


def maps(size, channels, padded):
    """A batch of two maps, of which the second may be padded."""
    return ImageBatch.from_images([torch.randn(channels, *size), torch.randn(channels, *(padded or size))])


@pytest.mark.parametrize("padding", [False, True])
def test_masks_agree_with_a_loop_over_queries(monkeypatch, padding):
    monkeypatch.setattr("detrex_lite.modeling.single_level.mask_head.QUERIES_AT_ONCE", 2)
    torch.manual_seed(0)
    channels = {"res2": 5, "res3": 6, "res4": 7}
    head = AttentionMaskHead(in_channels=channels, embed_dim=16, num_heads=4)
    sides = {"res4": ((4, 6), (4, 3)), "res3": ((8, 12), (8, 6)), "res2": ((15, 23), (15, 12))}
    projected, encoded = maps((2, 3), 16, (2, 2) if padding else None), torch.randn(2, 16, 2, 3)
    pyramid = [
        maps(size_of_map, channels[name], padded_size if padding else None)
        for name, (size_of_map, padded_size) in sides.items()
    ]
    queries = torch.randn(2, 5, 16)
    with torch.no_grad():
        masks = head(queries, encoded, projected, pyramid)
        assert masks.tensor.shape == (2, 5, 15, 23)
        for image, size in enumerate([(2, 3), (2, 2) if padding else (2, 3)]):
            cells = encoded[image, :, : size[0], : size[1]]
            key = head.key_proj(cells.flatten(1).T).unflatten(1, (4, 4))  # (h * w, H, C / H)
            for number in range(5):
                query = head.query_proj(queries[image, number]).unflatten(0, (4, 4))
                attention = torch.stack([key[:, index] @ query[index] / 2 for index in range(4)]).flatten().softmax(0)
                source = projected.tensor[image, :, : size[0], : size[1]]
                hidden = torch.cat([source, attention.unflatten(0, (4, *size))])[None]
                for step in range(5):
                    if step > 1:
                        height, width = pyramid[step - 2].image_sizes[image]
                        finer = head.adapters[step - 2](pyramid[step - 2].tensor[image : image + 1, :, :height, :width])
                        hidden = finer + F.interpolate(hidden, (height, width), mode="nearest")
                    hidden = F.relu(head.norms[step](head.convs[step](hidden)))
                expected = head.predict(hidden)[0, 0]
                assert_close(
                    masks.tensor[image, number, : expected.shape[0], : expected.shape[1]],
                    expected,
                    rtol=1e-4,
                    atol=1e-4,
                )


def test_with_a_frozen_detector_only_the_mask_head_is_trained():
    model, batch = build(small_config(freeze_detector=True)).train(), make_batch()
    assert {name.split(".")[0] for name, parameter in model.named_parameters() if parameter.requires_grad} == {
        "mask_head"
    }
    require_all_gradients(model, model(batch))


def test_only_the_last_layer_has_masks():
    named = predict(build(small_config()).train(), make_batch(), targets=True)
    assert set(named[""].extra) == {MASK_LOGITS}
    assert set(named["_0"].extra) == set()


def test_contradictory_parts_raise_an_error():
    with pytest.raises(ValueError, match="heads.extra.hidden"):
        build(small_config(**{"heads.extra": None}))
    with pytest.raises(ValueError, match="embed_dim is given as"):
        build(small_config(**{"mask_head.embed_dim": 128}))
    with pytest.raises(ValueError, match="no feature map 'res7'"):
        build(small_config(**{"mask_head.in_features": ["res7"]}))


@pytest.mark.parametrize(("num_classes", "rows"), [(133, 251), (80, 92), (5, 6)])
def test_converting_to_the_names_of_the_authors_and_back_restores_all_weights(num_classes, rows):
    model, loaded = (build(small_config(num_classes=num_classes), seed=seed) for seed in range(2))
    state = convert_state_dict(model.state_dict(), "detr")
    assert {"bbox_attention.q_linear.weight", "mask_head.lay5.weight", "mask_head.adapter3.bias"} <= set(state)
    assert {key.split(".")[0] for key in state} == {"detr", "bbox_attention", "mask_head"}
    assert len(state["detr.class_embed.weight"]) == rows
    report = load_checkpoint(loaded, state)
    assert (report.missing, report.unexpected, report.mismatched) == ([], [], [])
    for key, value in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[key], value)


def test_a_detector_without_masks_loads_a_checkpoint_with_masks():
    model = build(small_config())
    boxes = get_config("projects/detr/configs/models/detr_r50_paper.py").model
    report = load_checkpoint(build(changed(boxes, SMALL)), convert_state_dict(model.state_dict(), "detr"))
    assert (report.missing, report.unexpected, report.mismatched) == ([], [], [])


@pytest.mark.slow
def test_masks_of_four_images_are_overfitted(tmp_path):
    """Boxes and masks are trained together."""
    cfg = get_config("projects/detr/configs/models/detr_r50_panoptic.py").model
    maps = {"backbone.out_features": ["res2", "res3"], "mask_head.in_features": ["res2"], "mask_head.num_heads": 4}
    cfg = changed(cfg, {**SMALL_SINGLE_LEVEL, **maps, "panoptic_postprocessor": None})
    assert overfitted_ap50(cfg, tmp_path, 800, masks=True) > 0.9
