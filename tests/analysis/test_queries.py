"""Inspection of decoders: the recorded values are those of the model, and the model is not changed."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from detrex_lite.analysis import queries
from detrex_lite.analysis.inspection import Inspection, kept_share, query_places, refinement
from detrex_lite.analysis.queries import inspect_image, match_layers
from detrex_lite.config import LazyConfig
from detrex_lite.engine import MatchingStability
from detrex_lite.scalars import Scalars
from detrex_lite.testing.inputs import make_batch
from detrex_lite.testing.models import build_randomised
from detrex_lite.visualization import draw_attention, draw_query_places, draw_refinement

CONFIGS = {
    "detr": "projects/detr/configs/models/detr_small.py",
    "dino": "projects/dino/configs/models/dino_small.py",
}


@pytest.fixture(scope="module", params=CONFIGS)
def model(request):
    cfg = LazyConfig.load(CONFIGS[request.param]).model
    cfg.num_classes = 5
    return build_randomised(cfg)


def test_best_query_of_the_inspection_is_the_best_detection(model):
    [record, *_] = make_batch()
    model.train()
    inspection = inspect_image(model, record)
    assert all(module.training for module in (model, model.transformer.decoder))
    with torch.inference_mode():
        instances = model.eval()([record])[0]["instances"]
    best = int(instances.scores.argmax())
    [query] = inspection.best_queries(1)
    assert inspection.scores[query] == pytest.approx(float(instances.scores[best]), abs=1e-5)
    assert inspection.classes[query] == int(instances.pred_classes[best])
    height, width = inspection.size
    assert (height, width) == (record["height"], record["width"])
    clipped = inspection.boxes[-1, query].clip(0, [width, height, width, height])
    torch.testing.assert_close(
        torch.tensor(clipped), instances.pred_boxes.tensor[best].double(), atol=1e-2, rtol=0, check_dtype=False
    )
    assert len(inspection.probabilities) == len(model.transformer.decoder.layers)


def test_recorded_attention_has_the_shapes_of_the_block(model):
    [record, *_] = make_batch()
    inspection = inspect_image(model, record)
    attention, block = inspection.attentions[-1], model.transformer.decoder.layers[-1].attentions[-1]
    assert not {"sample", "attend_heads"} & set(vars(block))  # the methods of the class are restored
    assert attention.weights.sum(axis=-1) == pytest.approx(1, abs=1e-5)
    assert attention.weights.shape[:2] == (len(inspection.scores), block.num_heads)
    if attention.points is None:
        assert attention.map_of(0).shape == attention.grid
        assert attention.map_of(0).sum() == pytest.approx(1, abs=1e-5)
    else:
        assert attention.points.shape == (*attention.weights.shape, 2)
        assert attention.levels.tolist() == np.repeat(np.arange(block.num_levels), block.num_points).tolist()


def test_recorded_attention_of_zero_weights_is_uniform_at_the_reference(model):
    """With all-zero weights, attention is uniform and every sampling point is at the reference."""
    [record, *_] = make_batch()
    block = model.transformer.decoder.layers[-1].attentions[-1]
    saved_weights = {name: value.clone() for name, value in block.state_dict().items()}
    with torch.no_grad():
        if hasattr(block, "sampling_offsets"):
            for layer in (block.sampling_offsets, block.attention_weights):
                layer.weight.zero_()
                layer.bias.zero_()
        else:
            block.in_proj_weight.zero_()
            block.in_proj_bias.zero_()
    inspection = inspect_image(model, record)
    block.load_state_dict(saved_weights)
    attention = inspection.attentions[-1]
    assert attention.weights == pytest.approx(1 / attention.weights.shape[-1], abs=1e-6)
    if attention.points is not None:  # the reference is the box of the previous layer
        box = inspection.boxes[-2] / np.tile(np.array(inspection.size)[::-1], 2)
        centre = (box[:, :2] + box[:, 2:]) / 2
        assert attention.points == pytest.approx(
            np.broadcast_to(centre[:, None, None], attention.points.shape), abs=1e-4
        )


def test_every_layer_matches_every_object_to_a_query(model):
    records = [record for record in make_batch() if len(record["instances"])]
    matches = match_layers(model, records)
    num_objects = sum(len(record["instances"]) for record in records)
    assert matches.shape == (len(model.transformer.decoder.layers), num_objects)
    assert (matches >= 0).all()
    # Objects of the same image are matched with different queries.
    assert len(set(matches[-1, :2].tolist())) == 2
    assert (kept_share(matches, matches) == 1).all()


def test_pictures_of_boxes_and_attention_have_the_size_of_the_image(model):
    [record, *_] = make_batch()
    inspection = inspect_image(model, record)
    [query] = inspection.best_queries(1)
    image = Image.new("RGB", (192, 128), (90, 90, 90))
    for picture in (draw_refinement(image, inspection, query, "abcde"), draw_attention(image, inspection, query)):
        assert picture.size == image.size
        assert len(np.unique(np.asarray(picture).reshape(-1, 3), axis=0)) > 2


def inspection_of(boxes, probabilities):
    return Inspection((100, 200), np.asarray(probabilities, float), np.asarray(boxes, float), (None,))


def test_refinement_compares_with_the_last_layer():
    boxes = [[[0, 0, 10, 10], [0, 0, 1, 1]], [[0, 0, 20, 10], [0, 0, 1, 1]]]
    probabilities = [[[0.2, 0.4], [0.1, 0.0]], [[0.9, 0.3], [0.1, 0.0]]]
    overlaps, scores = refinement([inspection_of(boxes, probabilities)])
    assert overlaps.tolist() == [0.5, 1.0]
    assert scores.tolist() == [0.2, 0.9]


def test_query_places_are_relative_centres_and_sizes_of_detections():
    places = query_places([inspection_of([[[0, 0, 100, 50], [0, 0, 9, 9]]], [[[0.9], [0.1]]])] * 2)
    assert places.query.tolist() == [0, 0]
    assert places.centres.tolist() == [[0.25, 0.25]] * 2
    assert places.sizes.tolist() == [[0.5, 0.5]] * 2
    assert places.detections_per_query().tolist() == [2, 0]
    assert draw_query_places(places).count("<circle") == 2
    assert draw_query_places(query_places([inspection_of([[[0, 0, 1, 1]]], [[[0.1]]])])) == ""


def test_kept_share_ignores_unmatched_objects():
    before, after = np.array([1, 2, 3, -1]), np.array([1, 5, 3, 4])
    assert kept_share(before, after) == pytest.approx(2 / 3)
    assert np.isnan(kept_share(before[3:], after[3:]))


def test_matching_stability_is_logged(monkeypatch, model):
    matches = iter([np.array([[0, 1], [0, 2]]), np.array([[5, 1], [0, 1]])])
    monkeypatch.setattr("detrex_lite.engine.loop.matching_stability.match_layers", lambda model, records: next(matches))
    hook, scalars = MatchingStability(period=2, num_images=1), Scalars()
    trainer = SimpleNamespace(model=model.train(), iteration=1, scalars=scalars)
    hook.before_train(trainer)
    model([make_batch()[0]])
    hook.close()
    assert len(hook._records) == 1
    hook.after_step(trainer)
    assert scalars.means(torch.device("cpu")) == {}
    for trainer.iteration in (2, 4):
        trainer.scalars = Scalars()
        hook.after_step(trainer)
    means = {name: float(value) for name, value in trainer.scalars.means(torch.device("cpu")).items()}
    assert means == {"matching_kept_since_last": 0.5, "matching_kept_layer_0": 0.5}


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: inspect_image(nn.Linear(1, 1), {}), "no transformer.decoder"),
        (lambda: refinement([]), "at least one inspected image"),
        (lambda: query_places([]), "at least one inspected image"),
        (lambda: MatchingStability(period=0), "period=0"),
        (lambda: draw_attention(Image.new("RGB", (4, 4)), inspection_of([[[0, 0, 1, 1]]], [[[1]]]), 0), "not recorded"),
    ],
)
def test_invalid_inputs_raise_an_error(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_layer_sets_are_sorted_by_layer_with_the_last_at_the_end():
    names = ["", "_10", "_2", "_dn_0", "_enc", "_0_one2many", "_0"]
    sets = queries.layer_sets({name: name for name in names})
    assert sets == ["_0", "_2", "_10", ""]
