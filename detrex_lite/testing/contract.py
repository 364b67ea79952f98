"""The requirements of every detector, as test classes that the test file of a detector inherits from.

The file has a `class TestNewDETR(DetectorContract)` that implements `config`, and the tests specific to that detector.
Requirements of some detectors are in separate contracts: `DeformableContract`, `DenoisingContract`, `TwoStageContract`.
The behaviour of the base class `Detector` is not tested here.
"""

import copy
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import pytest
import torch
from omegaconf import DictConfig
from torch._dynamo.testing import CompileCounter
from torch.testing import assert_close

from ..modeling import Targets
from .configs import without_dropout
from .fake_gpu import losses_on_a_fake_gpu
from .inputs import NUM_CLASSES, make_batch, make_input
from .models import build, build_randomised, has_gradient, loss_names, predict, require_all_gradients

Batch = list[dict[str, Any]]


class DetectorContract:
    """Tests of a detector. A subclass implements `config` and overrides attributes with what it expects.

    Attributes:
        aux_suffixes: suffixes of the loss names of the decoder layers before the last.
        other_suffixes: suffixes of further sets of predictions, with and without auxiliary losses.
        loss_kinds: the losses of each set, such as "class" for "loss_class".
        compiles_whole: whether a compiled model is one graph.
        pixel_tolerance: tolerance of boxes in float64, if the default of `assert_close` is too strict.
    """

    aux_suffixes: frozenset[str] = frozenset({"_0"})
    other_suffixes: frozenset[str] = frozenset()
    loss_kinds: tuple[str, ...] = ("class", "bbox", "giou")
    compiles_whole = True
    pixel_tolerance: Mapping[str, Any] = MappingProxyType({})

    def config(self, **changes: Any) -> DictConfig:
        """Abstract. Return the config of a small model.

        It has two decoder layers, NUM_CLASSES and NUM_QUERIES, and no frozen weights.

        Args:
            changes: values by dotted key that override those of the model's config. Tests change `num_classes`,
                `num_queries`, `aux_loss` and `preprocess.size_divisibility`.
        """
        raise NotImplementedError(f"{type(self).__name__} must implement config")

    @pytest.fixture
    def batch(self) -> Batch:
        """Return images of three sizes, one without objects; see `make_batch`."""
        return make_batch()

    def expected_losses(self, *, aux_loss: bool = True) -> set[str]:
        """Return the names of all losses."""
        aux_suffixes = self.aux_suffixes if aux_loss else frozenset()
        return loss_names({"", *aux_suffixes, *self.other_suffixes}, self.loss_kinds)

    def test_an_image_gives_the_same_detections_alone_and_in_a_padded_batch(self, batch: Batch) -> None:
        model = build_randomised(self.config()).double().eval()
        with torch.no_grad():
            together = model(batch)
            for model_input, padded in zip(batch, together, strict=True):
                (alone,) = model([model_input])
                for field in ("scores", "pred_classes"):
                    assert_close(padded["instances"].get(field), alone["instances"].get(field))
                boxes = padded["instances"].pred_boxes.tensor
                assert_close(boxes, alone["instances"].pred_boxes.tensor, **self.pixel_tolerance)

    def test_float32_agrees_with_float64(self, batch: Batch) -> None:
        # Predictions are compared instead of detections, because rounding decides the order of equal scores.
        model = build_randomised(self.config()).eval()
        with torch.no_grad():
            single, outputs = predict(model, batch)[""], model(batch)
            double, double_outputs = predict(model.double(), batch)[""], model(batch)
        assert {output["instances"].scores.dtype for output in outputs} == {torch.float32}
        assert {output["instances"].scores.dtype for output in double_outputs} == {torch.float64}
        assert_close(single.logits.double(), double.logits, rtol=1e-4, atol=1e-4)
        assert_close(single.boxes.double(), double.boxes, rtol=1e-4, atol=5e-5)

    def test_losses_have_the_names_of_all_sets_and_every_parameter_learns(self, batch: Batch) -> None:
        model = build(self.config()).train()
        losses = model(batch)
        assert set(losses) == self.expected_losses()
        require_all_gradients(model, losses)
        without_aux_losses = build(self.config(aux_loss=False)).train()
        assert set(without_aux_losses(batch)) == self.expected_losses(aux_loss=False)

    def test_a_batch_without_objects_trains(self) -> None:
        model = build(self.config()).train()
        losses = model([make_input(32, 32, [], [], seed) for seed in range(2)])
        assert set(losses) == self.expected_losses()
        require_all_gradients(model, losses)

    @pytest.mark.filterwarnings("ignore:an image has:UserWarning")
    def test_300_objects_in_one_image_and_none_in_the_next_train(self) -> None:
        model = build(self.config(num_queries=320)).train()
        corners = torch.stack(torch.meshgrid(torch.arange(20), torch.arange(15), indexing="xy"), dim=-1).view(-1, 2) * 8
        boxes = torch.cat([corners, corners + 10], dim=1).float()
        crowd = make_input(160, 176, boxes, [number % NUM_CLASSES for number in range(300)])
        require_all_gradients(model, model([crowd, make_input(160, 160, [], [])]))

    @pytest.mark.filterwarnings("ignore:an image has:UserWarning")
    def test_one_class_and_a_feature_map_of_one_cell(self) -> None:
        model = build(self.config(num_classes=1)).train()
        losses = model([make_input(8, 8, [[1.0, 1, 6, 6]], [0], seed) for seed in range(2)])
        assert all(torch.isfinite(loss) for loss in losses.values())
        model.eval()
        with torch.no_grad():
            (output,) = model([make_input(8, 8, [], [])])
        assert (output["instances"].pred_classes == 0).all()

    def test_the_forward_pass_of_training_never_waits_for_a_gpu(self, batch: Batch) -> None:
        losses = losses_on_a_fake_gpu(build(self.config()).train(), batch)
        assert set(losses) == self.expected_losses()
        assert {loss.device.type for loss in losses.values()} == {"cuda"}

    def test_mixed_precision_trains(self, batch: Batch) -> None:
        model = build(self.config()).train()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            losses = model(batch)
        assert all(loss.dtype == torch.float32 for loss in losses.values())
        total = torch.stack(list(losses.values())).sum()
        total.backward()
        assert torch.isfinite(total)

    @pytest.mark.slow
    def test_training_compiles_to_one_graph_for_batches_of_all_sizes(self, batch: Batch) -> None:
        torch._dynamo.reset()
        # torch 2.11 creates a graph for each remainder of sizes that max pooling halves twice.
        model = build_randomised(without_dropout(self.config(**{"preprocess.size_divisibility": 4}))).double().train()
        eager = copy.deepcopy(model)
        graphs = CompileCounter()
        model.compile(backend=graphs, fullgraph=self.compiles_whole)
        wide = [
            make_input(70, 140, [[8.0, 8, 40, 60]] * 5, [0, 1, 2, 3, 4]),
            make_input(100, 90, [[9.0, 9, 50, 50]], [1]),
        ]
        high = [
            make_input(150, 80, [[8.0, 8, 40, 60]] * 2, [0, 1]),
            make_input(140, 66, [[9.0, 9, 50, 50]] * 9, [1] * 9),
        ]
        for images in (batch[:2], wide, high):
            losses = []
            for network in (model, eager):
                torch.manual_seed(0)
                losses.append(network(images))
            assert_close(*losses)
        assert graphs.frame_count == 1 or not self.compiles_whole

    @pytest.mark.slow
    def test_evaluation_compiles_to_one_graph_for_images_of_all_sizes(self, batch: Batch) -> None:
        torch._dynamo.reset()
        model = build_randomised(self.config()).double().eval()
        eager = copy.deepcopy(model)
        graphs = CompileCounter()
        model.compile(backend=graphs, fullgraph=self.compiles_whole)
        with torch.no_grad():
            for images in ([make_input(152, 200, [], [])], [make_input(172, 140, [], [], seed=1)], batch):
                for output, eager_output in zip(model(images), eager(images), strict=True):
                    assert_close(output["instances"].scores, eager_output["instances"].scores)
                    boxes = output["instances"].pred_boxes.tensor
                    assert_close(boxes, eager_output["instances"].pred_boxes.tensor, **self.pixel_tolerance)
        # The last batch is padded, and runs in eager mode.
        assert graphs.frame_count == 1 or not self.compiles_whole


class DeformableContract(DetectorContract):
    """Tests of a detector with deformable attention.

    A subclass with the mark `parametrize("variant", ...)` runs each test on several variants, which are changes of the
    config that `config` reads from `self.variant`. With two stages, the losses of the encoder are expected as well.
    """

    pixel_tolerance = MappingProxyType({"rtol": 1e-6, "atol": 1e-4})  # token locations are float32 in all models

    @pytest.fixture
    def variant(self) -> Mapping[str, Any]:
        """Return no changes, unless a subclass has that mark."""
        return {}

    @pytest.fixture(autouse=True)
    def _variant(self, variant: Mapping[str, Any]) -> None:
        self.variant = variant  # type: ignore[assignment]
        if variant.get("as_two_stage", False):
            self.other_suffixes = self.other_suffixes | {"_enc"}


class DenoisingContract(DetectorContract):
    """Tests of a detector whose config has denoising queries, as `denoising`.

    Attributes:
        num_groups: number of denoising groups, each with a query per object, for the fixture `batch`.
    """

    num_groups = 5
    aux_suffixes = frozenset({"_0", "_dn_0"})
    other_suffixes = frozenset({"_dn"})

    def test_denoising_leaves_the_other_queries_alone(self, batch: Batch) -> None:
        model = build_randomised(without_dropout(self.config())).double().train()
        with_denoising = predict(model, batch, targets=True)
        for model_input in batch:
            model_input["instances"] = model_input["instances"][
                :0
            ]  # no denoising queries; matching ones may use its embedding
        without = predict(model, batch, targets=True)
        assert set(with_denoising) == set(without)
        for suffix in (suffix for suffix in without if "_dn" not in suffix):
            assert_close(with_denoising[suffix].logits, without[suffix].logits)
            assert_close(with_denoising[suffix].boxes, without[suffix].boxes)

    def test_denoising_starts_from_the_objects(self, batch: Batch) -> None:
        """Without noise, and with zero box heads, the boxes of denoising queries are those of the objects."""
        no_noise = {"denoising.label_noise_prob": 0.0, "denoising.box_noise_scale": 0.0}
        model = build(self.config(**no_noise)).train()
        for parameter in model.heads.bbox_embed.parameters():
            torch.nn.init.zeros_(parameter)
        named = predict(model, batch, targets=True)
        for suffix in ("_dn", "_dn_0"):
            predictions = named[suffix]
            match, objects = predictions.match, predictions.targets
            assert match is not None
            assert isinstance(objects, Targets)
            assert len(match.target) == self.num_groups * len(objects)
            boxes = predictions.boxes[match.image, match.query]
            assert_close(boxes, objects.boxes[match.target], rtol=1e-4, atol=1e-4)

    def test_denoising_queries_are_there_with_targets_and_never_without(self, batch: Batch) -> None:
        model = build(self.config())
        with torch.no_grad():
            for mode in (True, False):
                model.train(mode)
                assert {"_dn", "_dn_0"} <= set(predict(model, batch, targets=True))
                assert not [name for name in predict(model, batch) if "_dn" in name]

    def test_without_objects_denoising_losses_are_zero(self) -> None:
        model = build(self.config()).train()
        losses = model([make_input(32, 32, [], [], seed) for seed in range(2)])
        denoising = {name: loss for name, loss in losses.items() if "_dn" in name}
        assert denoising
        assert all(loss == 0 for loss in denoising.values())
        torch.stack(list(denoising.values())).sum().backward()
        assert not model.denoising.label_embedding.weight.grad.any()

    def test_the_noise_is_a_key_of_the_config(self) -> None:
        noise = {"denoising.label_noise_prob": 0.0, "denoising.box_noise_scale": 0.1}
        denoising = build(self.config(**noise)).denoising
        assert (denoising.label_noise_prob, denoising.box_noise_scale) == (0.0, 0.1)
        assert denoising.num_classes == NUM_CLASSES


class TwoStageContract:
    """Tests of two stages: initial queries are proposals of an encoder with deformable attention.

    It complements one of the other contracts, and does not include their tests.
    """

    def config(self, **changes: Any) -> DictConfig:
        """Abstract. Return the config of a small model with two stages; see `DetectorContract.config`."""
        raise NotImplementedError(f"{type(self).__name__} must implement config")

    @pytest.fixture
    def batch(self) -> Batch:
        """See `DetectorContract.batch`."""
        return make_batch()

    def test_two_stages_need_refinement(self) -> None:
        with pytest.raises(ValueError, match="as_two_stage=True.*with_box_refine=True"):
            build(self.config(with_box_refine=False))

    def test_the_decoder_teaches_the_encoder_nothing_through_its_queries(self, batch: Batch) -> None:
        model = build_randomised(self.config()).train()
        predict(model, batch)["_0"].boxes.square().sum().backward()
        assert [has_gradient(head) for head in model.heads.bbox_embed] == [True, False, False]
        assert not has_gradient(model.queries.proposals)

    def test_there_are_no_more_queries_than_tokens(self) -> None:
        model = build_randomised(self.config()).train()
        named = predict(model, [make_input(8, 8, [[1.0, 1, 6, 6]], [3])], targets=True)
        # There are four levels of one cell.
        assert named["_enc"].logits.shape == named[""].logits.shape == (1, 4, NUM_CLASSES)

    def test_queries_for_which_an_image_has_no_tokens_do_nothing(self, batch: Batch) -> None:
        """A small image may have fewer tokens than queries, whose number depends on a larger image of its batch."""
        model = build_randomised(self.config()).double().eval()
        small = make_input(8, 8, [], [], seed=4)
        with torch.no_grad():
            alone, together = predict(model, [small])[""], predict(model, [*batch, small])[""]
            number = alone.logits.shape[1]
            assert number < together.logits.shape[1]
            assert_close(together.logits[-1:, :number], alone.logits, rtol=1e-6, atol=1e-6)
            assert_close(together.boxes[-1:, :number], alone.boxes, rtol=1e-6, atol=1e-6)
            (output,) = model([small])
            padded = model([*batch, small])[-1]
        assert_close(padded["instances"].scores, output["instances"].scores)
        assert_close(padded["instances"].pred_boxes.tensor, output["instances"].pred_boxes.tensor)

    def test_padding_proposes_no_query(self, batch: Batch) -> None:
        """Padding proposes no query even if its score is the highest possible."""
        model = build_randomised(self.config()).double().eval()
        proposals, head = model.queries.proposals, model.heads.class_embed[-1]
        with torch.no_grad():
            # Padding is zero before the projection; among vectors of equal length, the product with itself is largest.
            head.weight[0] = proposals.enc_output_norm(proposals.enc_output.bias)
            together = predict(model, batch)[""]
            for index, model_input in enumerate(batch):
                alone = predict(model, [model_input])[""]
                assert_close(together.logits[index], alone.logits[0], rtol=1e-6, atol=1e-6)
                assert_close(together.boxes[index], alone.boxes[0], rtol=1e-6, atol=1e-6)
