"""The base class of all detectors, tested on a minimal detector."""

import copy

import pytest
import torch
from torch import nn
from torch._dynamo.testing import CompileCounter
from torch.testing import assert_close

from detrex_lite.config import LazyCall as L
from detrex_lite.config import get_config
from detrex_lite.modeling import (
    FINAL,
    DetectionHeads,
    Detector,
    ImagePreprocessor,
    LayerOutput,
    Outputs,
    Predictions,
    Targets,
    TopKPostprocessor,
    require_equal,
)
from detrex_lite.structures import ImageBatch
from detrex_lite.testing import (
    NUM_CLASSES,
    NUM_QUERIES,
    DetectorContract,
    build,
    build_randomised,
    changed,
    loss_names,
    make_batch,
    make_input,
    predict,
    require_all_gradients,
)


class ToyDetector(Detector):
    """One convolution, whose mean is added to learned queries, and heads that read the queries."""

    def __init__(self, *, num_queries, aux_loss=True, **parts):
        super().__init__(**parts)
        self.backbone = nn.Conv2d(3, 8, kernel_size=8, stride=8)
        self.queries = nn.Embedding(num_queries, 8)
        self.heads = DetectionHeads(embed_dim=8, num_classes=self.num_classes, num_layers=2, references=False)
        self.aux_loss = aux_loss

    def feature_maps(self, images):
        return [self.backbone(images)]

    def predict(self, images, targets=None):
        first, last = self.decode(images)
        predictions = {FINAL: Predictions(*last)}
        return predictions | {"_0": Predictions(*first)} if self.aux_loss else predictions

    def decode(self, images) -> list[LayerOutput]:
        (level,) = self.extract_features(images)
        not_padding = (~level.mask_or_zeros()[:, None]).to(level.tensor.dtype)
        mean = (level.tensor * not_padding).sum(dim=(2, 3)) / not_padding.sum(dim=(2, 3))
        query = self.queries.weight + mean[:, None]
        steps = [self.heads.step(0, query, None)]
        steps.append(self.heads.step(1, query.tanh(), None, steps[0]))
        return self.heads.read(steps)


def toy_config(**changes):
    model = L(ToyDetector)(
        num_classes=NUM_CLASSES,
        num_queries=NUM_QUERIES,
        aux_loss=True,
        batch_invariant_eval=True,
        preprocess=get_config("common/preprocess.py").imagenet,
        criterion=get_config("common/criterion.py").focal_criterion,
        postprocessor=L(TopKPostprocessor)(num_detections=20),
    )
    return changed(model, changes)


@pytest.fixture
def batch():
    return make_batch()


class TestToyDetector(DetectorContract):
    def config(self, **changes):
        return toy_config(**changes)

    def test_training_compiles_to_one_graph_for_batches_of_all_sizes(self, batch):
        # Not marked as slow here, because the model is small.
        super().test_training_compiles_to_one_graph_for_batches_of_all_sizes(batch)

    def test_evaluation_compiles_to_one_graph_for_images_of_all_sizes(self, batch):
        super().test_evaluation_compiles_to_one_graph_for_images_of_all_sizes(batch)


class DetectorWithoutMethods(Detector):
    """A detector without any of the abstract methods."""


@pytest.mark.parametrize("method", ["predict", "decode", "feature_maps"])
def test_errors_name_missing_abstract_methods_and_the_class(method):
    detector = DetectorWithoutMethods(
        num_classes=1, preprocess=ImagePreprocessor(), criterion=nn.Identity(), postprocessor=list
    )
    with pytest.raises(NotImplementedError, match=f"DetectorWithoutMethods.*{method}"):
        getattr(detector, method)(torch.zeros(1, 3, 8, 8))


def test_a_detector_without_decode_cannot_be_compiled():
    detector = DetectorWithoutMethods(
        num_classes=1, preprocess=ImagePreprocessor(), criterion=nn.Identity(), postprocessor=list
    )
    with pytest.raises(NotImplementedError, match=r"DetectorWithoutMethods.*decode"):
        detector.compile()


def test_errors_name_the_image(batch):
    model = build(toy_config()).train()
    batch[2]["instances"].gt_classes[0] = NUM_CLASSES
    with pytest.raises(ValueError, match=r"number 2 .*label 5.*num_classes=5"):
        model(batch)
    del batch[0]["instances"]
    with pytest.raises(ValueError, match=r"number 0 .*'instances'"):
        model(batch)
    with pytest.raises(ValueError, match=r"a\.png .*\(1, 4, 4\).*\(3, H, W\)"):
        model([{"image": torch.zeros(1, 4, 4), "file_name": "a.png"}])
    with pytest.raises(ValueError, match="at least one image"):
        model([])


def test_num_classes_of_zero_raises_an_error():
    with pytest.raises(ValueError, match="num_classes=0"):
        build(toy_config(num_classes=0))


def test_more_objects_than_queries_warn_and_train():
    boxes = [[4.0 * left, 4, 4 * left + 12, 40] for left in range(NUM_QUERIES + 2)]
    model = build(toy_config()).train()
    with pytest.warns(UserWarning, match=rf"{len(boxes)} objects.*{NUM_QUERIES} queries"):
        losses = model([make_input(64, 64, boxes, [0] * len(boxes))])
    require_all_gradients(model, losses)


def test_detections_are_scaled_to_the_requested_frame_and_clipped(batch):
    model = build_randomised(toy_config()).eval()
    with torch.no_grad():
        head = model.heads.bbox_embed[0].layers[-1]
        head.weight.zero_()
        # Boxes are as large as the image, and cross its left and bottom borders.
        head.bias.copy_(torch.tensor([-1.0, 1, 5, 5]))
        scaled, unscaled = (
            model(batch)[0]["instances"],
            model([{"image": batch[0]["image"]}])[0]["instances"],
        )
    assert scaled.image_size == (128, 192)
    assert unscaled.image_size == (64, 96)
    assert_close(scaled.pred_boxes.tensor, 2 * unscaled.pred_boxes.tensor)
    assert_close(scaled.pred_boxes.tensor[:, [0, 3]], torch.tensor([[0.0, 128]]).expand(20, -1))
    assert (scaled.pred_boxes.tensor[:, [1, 2]] > 0).all()
    assert (scaled.pred_boxes.tensor[:, 2] < 192).all()
    assert len(scaled) == 20


def test_images_are_normalised_and_padded_with_zeros(batch):
    model = build(toy_config(**{"preprocess.pixel_mean": [1.0, 2, 3], "preprocess.pixel_std": [2.0, 4, 8]}))
    images = model.preprocess(batch, as_published=False)
    assert images.image_sizes == [(64, 96), (80, 56), (48, 64)]
    raw = batch[2]["image"].float()
    scale, mean = torch.tensor([2.0, 4, 8])[:, None, None], torch.tensor([1.0, 2, 3])[:, None, None]
    assert_close(images.tensor[2, :, :48, :64], (raw - mean) / scale)
    assert not images.tensor[2].masked_fill(~images.mask[2], 0).any()
    assert not [name for name in model.state_dict() if "pixel" in name]


def test_pixel_statistics_have_the_precision_of_the_model():
    """Rounding 123.675 to float32 first would give 123.67500305 in float64."""
    preprocess = ImagePreprocessor()
    for dtype in (torch.bfloat16, torch.float64, torch.float32, torch.float64):
        preprocess.to(dtype)
        assert_close(
            preprocess.pixel_mean.flatten(), torch.tensor([123.675, 116.28, 103.53], dtype=dtype), rtol=0, atol=0
        )
        assert_close(preprocess.pixel_std.flatten(), torch.tensor([58.395, 57.12, 57.375], dtype=dtype), rtol=0, atol=0)


def test_only_training_pads_images_to_multiples(batch):
    model = build(toy_config(**{"preprocess.size_divisibility": 48}))
    sizes = []
    model.backbone.register_forward_hook(lambda module, args, result: sizes.append(tuple(args[0].shape[-2:])))
    require_all_gradients(model, model.train()(batch))
    with torch.no_grad():
        model.eval()(batch)
    assert sizes == [(96, 96), (64, 96), (80, 56), (48, 64)]
    with pytest.raises(ValueError, match="size_divisibility=0"):
        build(toy_config(**{"preprocess.size_divisibility": 0}))


@pytest.mark.parametrize("as_published", [True, False])
def test_the_handling_of_padding_follows_the_batch_and_not_the_mode(batch, as_published):
    """With `as_published`, the backbone runs once per batch, also in evaluation."""
    model, runs = build(toy_config()), []
    model.backbone.register_forward_hook(lambda *_: runs.append(1))
    for mode in (True, False):
        runs.clear()
        predict(model.train(mode), batch, as_published=as_published)
        assert len(runs) == (1 if as_published else 3)


def test_evaluation_runs_in_one_batch_without_batch_invariance(batch):
    runs = []
    for invariant in (True, False):
        model = build_randomised(toy_config(batch_invariant_eval=invariant)).double().eval()
        model.backbone.register_forward_hook(lambda *_: runs.append(1))
        with torch.no_grad():
            expected = predict(model, batch, as_published=not invariant)[FINAL].logits.sigmoid().amax((1, 2))
            runs.clear()
            scores = torch.stack([output["instances"].scores.max() for output in model(batch)])
        assert len(runs) == (3 if invariant else 1)
        assert_close(scores, expected)


def test_images_of_the_same_size_run_in_one_batch():
    model, sizes = build(toy_config()).eval(), []
    model.backbone.register_forward_hook(lambda module, args, result: sizes.append(tuple(args[0].shape)))
    with torch.no_grad():
        model([make_input(16, 24, [], [], 1), make_input(32, 16, [], []), make_input(16, 24, [], [], 2)])
    assert sizes == [(2, 3, 16, 24), (1, 3, 32, 16)]


def test_predict_receives_targets_in_training_only(batch):
    model, targets_of_calls = build(toy_config()), []
    model.predict = lambda images, targets=None: (
        targets_of_calls.append(targets) or type(model).predict(model, images, targets)
    )
    with torch.no_grad():
        model.train()(batch)
        model.eval()(batch)
    training_targets, evaluation_targets = targets_of_calls
    assert isinstance(training_targets, Targets)
    assert training_targets.sizes == [2, 0, 1]
    assert evaluation_targets is None


class WithAdditionalLoss(ToyDetector):
    """Adds a loss of the contents that `predict` returns in addition to the predictions."""

    def predict(self, images, targets=None):
        return Outputs(super().predict(images, targets), contents=self.queries.weight)

    def losses(self, outputs, targets):
        return {"loss_contents": outputs.extra["contents"].square().mean() * len(targets)}


def test_additional_losses_are_returned_with_those_of_the_criterion(batch):
    model = build(toy_config(_target_=WithAdditionalLoss)).train()
    losses = model(batch)
    assert set(losses) == {*loss_names({"", "_0"}), "loss_contents"}
    assert_close(losses["loss_contents"], 3 * model.queries.weight.square().mean())


@pytest.mark.parametrize(
    ("additional_losses", "message"),
    [
        ({"loss_bbox": torch.tensor(1.0)}, "'loss_bbox'.*criterion"),
        ({"loss_vector": torch.ones(3)}, r"'loss_vector'.*\(3,\)"),
        ({"loss_number": 1.0}, "'loss_number'.*float"),
        (torch.tensor(1.0), "returned.*Tensor"),
    ],
)
def test_errors_name_invalid_additional_losses(batch, additional_losses, message):
    model = build(toy_config()).train()
    model.losses = lambda outputs, targets: additional_losses
    with pytest.raises(ValueError, match=message):
        model(batch)


def test_a_copy_of_a_compiled_model_uses_its_own_weights(batch):
    model = build_randomised(toy_config()).eval()
    with torch.no_grad():
        before = model(batch[:1])[0]["instances"]
        model.compile(backend="eager")
        copied = copy.deepcopy(model)
        for parameter in model.parameters():
            parameter.zero_()
        after = copied(batch[:1])[0]["instances"]
    assert_close(after.scores, before.scores)
    assert_close(after.pred_boxes.tensor, before.pred_boxes.tensor)


def test_only_the_compiled_mode_runs_compiled(batch):
    torch._dynamo.reset()
    model, graphs = build(toy_config()).train(), CompileCounter()
    model.compile(backend=graphs)
    with torch.no_grad():
        model.eval()(batch[:1])
        assert graphs.frame_count == 0
        model.train()(batch)
    assert graphs.frame_count == 1


def test_errors_name_contradicting_parts_with_their_values():
    require_equal("levels", neck=4, encoder=None, decoder=4)
    with pytest.raises(ValueError, match=r"levels .*4 by neck, 5 by decoder"):
        require_equal("levels", neck=4, encoder=None, decoder=5)


def test_image_sizes_and_masks_are_scaled_to_the_feature_map():
    images = ImageBatch.from_images([torch.zeros(3, 64, 96), torch.zeros(3, 48, 64)], as_published=True)
    (level,) = build(toy_config()).extract_features(images)
    assert level.image_sizes == [(8, 12), (6, 8)]
    assert level.as_published
    assert not level.mask[1, :6, :8].any()
    assert level.mask[1].sum() == 8 * 12 - 6 * 8
