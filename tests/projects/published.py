"""What every detector must do: tests that the test file of each detector runs on small models of its own.

The file has a `class TestNewDETR(DetectorContract)` that writes `config`, and what is particular to that detector.
What only some detectors have is in contracts of its own: `DeformableContract`, `DenoisingContract`, `TwoStageContract`.
"""

import copy
import re
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

import pytest
import torch
from omegaconf import OmegaConf
from torch._dynamo.testing import CompileCounter
from torch.testing import assert_close

import detrex_lite.projects
from detrex_lite.config import LazyConfig, instantiate
from detrex_lite.modeling import Targets
from detrex_lite.structures import Boxes, Instances

from .fake_gpu import losses_on_a_fake_gpu

PROJECTS = Path(next(iter(detrex_lite.projects.__path__)))
NUM_CLASSES = 5
NUM_QUERIES = 7


# Of a config with a ResNet-50: two layers of each kind on a ResNet-18.
SMALL = {
    "num_classes": NUM_CLASSES,
    "num_queries": NUM_QUERIES,
    "embed_dim": 64,
    "backbone.depth": 18,
    "backbone.freeze_at": 0,
    "position_embedding.num_pos_feats": 32,
    "transformer.encoder.num_layers": 2,
    "transformer.encoder.num_heads": 4,
    "transformer.encoder.feedforward_dim": 96,
    "transformer.decoder.num_layers": 2,
    "postprocessor.num_detections": 20,
}


def changed(cfg, changes):
    """`cfg` with values replaced: dotted key -> value."""
    for key, value in changes.items():
        OmegaConf.update(cfg, key, value, merge=False)
    return cfg


def without_dropout(cfg):
    """`cfg` where nothing is dropped; arguments that drop activations have "drop" in their names."""
    for node in list(_nodes(cfg)):
        for key in node:
            if "drop" in str(key):
                node[key] = 0.0
    return cfg


def _nodes(node):
    if OmegaConf.is_config(node):
        if OmegaConf.is_dict(node):
            yield node
        for child in node.values() if OmegaConf.is_dict(node) else node:
            yield from _nodes(child)


def build(cfg, seed=0):
    torch.manual_seed(seed)
    return instantiate(cfg)


def build_on_meta(path):
    """The model of a config file and its config, without memory for the weights."""
    cfg = LazyConfig.load(str(path)).model
    cfg.backbone.weights = None  # on the meta device there is nothing to load into
    with torch.device("meta"):
        return instantiate(cfg), cfg


def build_lively(cfg, seed=0):
    """A model where matrices that begin as zeros are random: as zeros they hide what is before them."""
    model = build(cfg, seed)
    for parameter in model.parameters():
        if parameter.dim() > 1 and not parameter.any():
            torch.nn.init.xavier_normal_(parameter)
    return model


def make_input(height, width, boxes, classes, seed=0):
    """An input in detectron2's format, with boxes in absolute xyxy; detections are asked in twice its frame."""
    generator = torch.Generator().manual_seed(seed)
    image = torch.randint(256, (3, height, width), dtype=torch.uint8, generator=generator)
    instances = Instances((height, width), gt_boxes=Boxes(boxes), gt_classes=torch.tensor(classes, dtype=torch.int64))
    return {"image": image, "height": 2 * height, "width": 2 * width, "instances": instances}


def predict(model, inputs, targets=False):
    """The sets of predictions that `model` makes of inputs in detectron2's format, with their objects or without."""
    images = model.preprocess(inputs)
    if not targets:
        return model.predict(images)
    return model.predict(images, Targets.from_inputs(inputs, num_classes=NUM_CLASSES, like=images.tensor))


def parameter_patterns(model, leave_out=("backbone.",)):
    """The names in a checkpoint, without those that begin with `leave_out`: numbers as N, weights and biases as `*`."""
    names = {re.sub(r"\.\d+(?=\.)", ".N", name) for name in model.state_dict() if not name.startswith(leave_out)}
    return {re.sub(r"\.(weight|bias)$", ".*", name) for name in names}


def huggingface_resnet_config(*stages):
    """transformers' ResNet-18 that gives these stages."""
    from transformers import ResNetConfig

    return ResNetConfig(
        layer_type="basic",
        depths=[2, 2, 2, 2],
        hidden_sizes=[64, 128, 256, 512],
        embedding_size=64,
        out_features=list(stages),
    )


def huggingface_resnet(state):
    """The weights of a ResNet in a detector of transformers, under this project's names."""
    prefix = r"model\.backbone\.(?:conv_encoder\.)?model\."
    names = re.compile(prefix + r"(?:embedder\.embedder|encoder\.stages\.(\d)\.layers\.(\d))\.(.+)")
    renamed = {}
    for name, value in state.items():
        found = names.fullmatch(name)
        if found is None or name.endswith("num_batches_tracked"):
            continue
        stage, block, rest = found.groups()
        if stage is None:
            ours = rest.replace("convolution", "conv1").replace("normalization", "bn1")
        else:
            rest = re.sub(r"layer\.(\d)\.convolution", lambda n: f"conv{int(n[1]) + 1}", rest)
            rest = re.sub(r"layer\.(\d)\.normalization", lambda n: f"bn{int(n[1]) + 1}", rest)
            rest = rest.replace("shortcut.convolution", "downsample.0")
            rest = rest.replace("shortcut.normalization", "downsample.1")
            ours = f"layer{int(stage) + 1}.{block}.{rest}"
        renamed[f"backbone.{ours}"] = value
    return renamed


# Patterns of the names that several detectors of transformers have, and what replaces them.
HUGGINGFACE_COMMON_RULES = (
    (r"^bbox_predictor\.", "bbox_embed."),
    (r"^model\.input_projection\.", "input_proj."),
    (r"^model\.", "transformer."),
    (r"\.decoder\.layernorm\.", ".decoder.post_norm_layer."),
    (r"\.(mlp\.)?fc1\.", ".ffns.0.layers.0."),
    (r"\.(mlp\.)?fc2\.", ".ffns.0.layers.1."),
    (r"(encoder\.layers\.\d+)\.self_attn_layer_norm\.", r"\1.norms.0."),
    (r"(encoder\.layers\.\d+)\.final_layer_norm\.", r"\1.norms.1."),
    (r"(decoder\.layers\.\d+)\.self_attn_layer_norm\.", r"\1.norms.0."),
    (r"(decoder\.layers\.\d+)\.encoder_attn_layer_norm\.", r"\1.norms.1."),
    (r"(decoder\.layers\.\d+)\.final_layer_norm\.", r"\1.norms.2."),
    (r"\.o_proj\.", ".out_proj."),
    (r"\.self_attn\.", ".attentions.0."),
    (r"\.encoder_attn\.", ".attentions.1."),
)


def huggingface_weights(state, rules):
    """The weights of a detector of transformers, under this project's names.

    Args:
        state: what the `state_dict` of that detector gives.
        rules: patterns and replacements of the names that only that detector has, applied before the common ones.
    """
    renamed = huggingface_resnet(state)
    heads_again = ("model.decoder.class_embed.", "model.decoder.bbox_embed.")
    for name, value in state.items():
        if name.startswith(("model.backbone.", *heads_again)) or re.search(r"\.[kv]_proj\.", name):
            continue
        if ".q_proj." in name:  # here the three projections are one parameter
            value = torch.cat([state[name.replace("q_proj", f"{part}_proj")] for part in "qkv"])
            name = name.replace("q_proj.", "in_proj_")
        renamed[apply_rules(name, (*rules, *HUGGINGFACE_COMMON_RULES))] = value
    return renamed


def apply_rules(name, rules):
    """`name` with each pattern replaced in turn."""
    for pattern, replacement in rules:
        name = re.sub(pattern, replacement, name)
    return name


def under_detrex_names(state, label_embedding):
    """Weights of a detector with denoising and deformable attention as detrex stores them, the heads twice."""
    rules = [
        (r"^denoising\.label_embedding\.", label_embedding),
        (r"^transformer\.encoder_proposals\.", "transformer."),
        (r"(\.decoder\.layers\.\d+\.attentions\.0)\.", r"\1.attn."),
        (r"(\.ffns\.0\.layers\.0)\.", r"\1.0."),
        (r"^(neck\.\w+\.\d+)\.0\.", r"\1.conv."),
        (r"^(neck\.\w+\.\d+)\.1\.", r"\1.norm."),
    ]
    renamed = {}
    for name, value in state.items():
        name = apply_rules(name, rules)
        renamed[name] = value
        if name.startswith(("class_embed.", "bbox_embed.")):
            renamed[f"transformer.decoder.{name}"] = value
    return renamed


def has_gradient(module):
    """Whether every parameter got a gradient that is not zero; an error when only some did."""
    got = {parameter.grad is not None and bool(parameter.grad.any()) for parameter in module.parameters()}
    assert len(got) == 1
    return got.pop()


def require_all_gradients(model, losses):
    """Every parameter gets a gradient, as DistributedDataParallel needs it, and all is finite."""
    total = sum(losses.values())
    assert torch.isfinite(total)
    total.backward()
    gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
    assert [name for name, gradient in gradients.items() if gradient is None] == []
    assert [name for name, gradient in gradients.items() if not gradient.isfinite().all()] == []


class DetectorContract:
    """Tests of a detector. A subclass gives `config`, and where they differ what is expected of it.

    Attributes:
        max_detections: the most detections of an image that models of `config()` return.
        aux_suffixes: the loss names of the decoder layers before the last end in these.
        other_suffixes: those of further sets of predictions, with and without auxiliary losses, in these.
        compiles_whole: whether a compiled model is one graph.
        pixel_tolerance: how far boxes may be apart in float64, where the default of `assert_close` is too near.
    """

    max_detections = NUM_QUERIES
    aux_suffixes = frozenset({"_0"})
    other_suffixes: frozenset[str] = frozenset()
    compiles_whole = True
    pixel_tolerance: Mapping[str, float] = MappingProxyType({})

    def config(self, **changes):
        """The config of a small model of two decoder layers, with NUM_CLASSES, NUM_QUERIES, nothing frozen."""
        raise NotImplementedError

    def test_an_image_gives_the_same_detections_alone_and_in_a_padded_batch(self, batch):
        model = build_lively(self.config()).double().eval()
        with torch.no_grad():
            together = model(batch)
            for one, padded in zip(batch, together, strict=True):
                (alone,) = model([one])
                for field in ("scores", "pred_classes"):
                    assert_close(padded["instances"].get(field), alone["instances"].get(field))
                boxes = padded["instances"].pred_boxes.tensor
                assert_close(boxes, alone["instances"].pred_boxes.tensor, **self.pixel_tolerance)

    def test_float32_agrees_with_float64(self, batch):
        # Not what is detected: which of two equal scores comes first is a matter of rounding.
        model = build_lively(self.config()).eval()
        with torch.no_grad():
            single, found = predict(model, batch)[""], model(batch)
            double, found_in_double = predict(model.double(), batch)[""], model(batch)
        assert {one["instances"].scores.dtype for one in found} == {torch.float32}
        assert {one["instances"].scores.dtype for one in found_in_double} == {torch.float64}
        assert_close(single.logits.double(), double.logits, rtol=1e-4, atol=1e-4)
        assert_close(single.boxes.double(), double.boxes, rtol=1e-4, atol=5e-5)

    def test_losses_have_the_names_of_all_sets_and_every_parameter_learns(self, batch):
        model = build(self.config()).train()
        losses = model(batch)
        assert set(losses) == loss_names({"", *self.aux_suffixes, *self.other_suffixes})
        require_all_gradients(model, losses)

    def test_without_auxiliary_losses(self, batch):
        model = build(self.config(aux_loss=False)).train()
        assert set(model(batch)) == loss_names({"", *self.other_suffixes})

    def test_a_batch_without_objects_trains(self):
        model = build(self.config()).train()
        losses = model([make_input(32, 32, [], [], seed) for seed in range(2)])
        assert set(losses) == loss_names({"", *self.aux_suffixes, *self.other_suffixes})
        require_all_gradients(model, losses)

    def test_300_objects_in_one_image_and_none_in_the_next_train(self):
        model = build(self.config(num_queries=320)).train()
        corners = torch.stack(torch.meshgrid(torch.arange(20), torch.arange(15), indexing="xy"), dim=-1).view(-1, 2) * 8
        boxes = torch.cat([corners, corners + 10], dim=1).float()
        crowd = make_input(160, 176, boxes, [number % NUM_CLASSES for number in range(300)])
        require_all_gradients(model, model([crowd, make_input(160, 160, [], [])]))

    def test_one_class_and_a_feature_map_of_one_cell(self):
        model = build(self.config(num_classes=1)).train()
        losses = model([make_input(8, 8, [[1.0, 1, 6, 6]], [0], seed) for seed in range(2)])
        assert all(torch.isfinite(loss) for loss in losses.values())
        model.eval()
        (found,) = model([make_input(8, 8, [], [])])
        assert (found["instances"].pred_classes == 0).all()

    def test_more_objects_than_queries_warn_and_train(self):
        boxes = [[4.0 * left, 4, 4 * left + 12, 40] for left in range(NUM_QUERIES + 2)]
        model = build(self.config()).train()
        with pytest.warns(UserWarning, match=f"{len(boxes)} objects, but there are {NUM_QUERIES} queries"):
            losses = model([make_input(64, 64, boxes, [0] * len(boxes))])
        require_all_gradients(model, losses)

    def test_the_forward_pass_of_training_never_waits_for_a_gpu(self, batch):
        losses = losses_on_a_fake_gpu(build(self.config()).train(), batch)
        assert set(losses) == loss_names({"", *self.aux_suffixes, *self.other_suffixes})
        assert {loss.device.type for loss in losses.values()} == {"cuda"}

    @pytest.mark.slow
    def test_training_compiles_to_one_graph_for_batches_of_all_sizes(self, batch):
        torch._dynamo.reset()
        # torch 2.11 makes a graph for each remainder of sizes that max pooling halves twice.
        model = build_lively(without_dropout(self.config(size_divisibility=4))).double().train()
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
            for one in (model, eager):
                torch.manual_seed(0)
                losses.append(one(images))
            assert_close(*losses)
        assert graphs.frame_count == 1 or not self.compiles_whole

    @pytest.mark.slow
    def test_evaluation_compiles_to_one_graph_for_images_of_all_sizes(self, batch):
        torch._dynamo.reset()
        model = build_lively(self.config()).double().eval()
        eager = copy.deepcopy(model)
        graphs = CompileCounter()
        model.compile(backend=graphs, fullgraph=self.compiles_whole)
        with torch.no_grad():
            for images in ([make_input(152, 200, [], [])], [make_input(172, 140, [], [], seed=1)], batch):
                for one, other in zip(model(images), eager(images), strict=True):
                    assert_close(one["instances"].scores, other["instances"].scores)
                    boxes = one["instances"].pred_boxes.tensor
                    assert_close(boxes, other["instances"].pred_boxes.tensor, **self.pixel_tolerance)
        # The last batch is padded, and runs as it is.
        assert graphs.frame_count == 1 or not self.compiles_whole

    def test_a_copy_of_a_compiled_model_computes_with_its_own_weights(self, batch):
        model = build_lively(self.config()).eval()
        with torch.no_grad():
            before = model(batch[:1])[0]["instances"]
            model.compile()
            changed = copy.deepcopy(model)
            for parameter in model.parameters():
                parameter.zero_()
            after = changed(batch[:1])[0]["instances"]
        assert_close(after.scores, before.scores)
        assert_close(after.pred_boxes.tensor, before.pred_boxes.tensor)

    def test_training_pads_to_multiples_when_asked_and_evaluation_does_not(self, batch, monkeypatch):
        model = build(self.config(size_divisibility=48))
        sizes = []

        def feature_maps(images):
            sizes.append(tuple(images.shape[-2:]))
            return type(model).feature_maps(model, images)

        monkeypatch.setattr(model, "feature_maps", feature_maps)
        require_all_gradients(model, model.train()(batch))
        with torch.no_grad():
            model.eval()(batch)
        assert sizes == [(96, 96), (64, 96), (80, 56), (48, 64)]
        with pytest.raises(ValueError, match="size_divisibility=0 is less than 1"):
            build(self.config(size_divisibility=0))

    def test_mixed_precision_trains(self, batch):
        model = build(self.config()).train()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            losses = model(batch)
        assert all(loss.dtype == torch.float32 for loss in losses.values())
        total = sum(losses.values())
        total.backward()
        assert torch.isfinite(total)

    def test_detections_lie_in_the_frame_that_the_input_asks_for(self, batch):
        model = build(self.config()).eval()
        with torch.no_grad():
            found = model(batch)[0]["instances"]
        assert found.image_size == (128, 192)
        boxes = found.pred_boxes.tensor
        assert (boxes >= 0).all()
        assert (boxes[:, 2] <= 192).all()
        assert (boxes[:, 3] <= 128).all()
        assert 0 < len(found) <= self.max_detections

    def test_errors_name_the_image(self, batch):
        model = build(self.config()).train()
        batch[2]["instances"].gt_classes[0] = NUM_CLASSES
        with pytest.raises(ValueError, match="image number 2 of the batch has label 5, .* num_classes=5"):
            model(batch)
        with pytest.raises(ValueError, match=r"image a.png has shape \(1, 4, 4\); expected \(3, H, W\)"):
            model([{"image": torch.zeros(1, 4, 4), "file_name": "a.png"}])
        with pytest.raises(ValueError, match="at least one image"):
            model([])
        with pytest.raises(ValueError, match="num_classes=0"):
            build(self.config(num_classes=0))


class DeformableContract(DetectorContract):
    """Tests of a detector with deformable attention, whose detections are pairs of a query and a class.

    A subclass with the mark `parametrize("variant", ...)` runs each test on several variants, which are changes of the
    config: `config` finds them in `self.variant`. With two stages the losses of the encoder are expected as well.
    """

    max_detections = 20
    pixel_tolerance = MappingProxyType({"rtol": 1e-6, "atol": 1e-4})  # where tokens are is float32 in all models

    @pytest.fixture
    def variant(self):
        """No changes, where a subclass does not have that mark."""
        return {}

    @pytest.fixture(autouse=True)
    def _variant(self, variant):
        self.variant = variant
        if variant.get("as_two_stage", False):
            self.other_suffixes = {*self.other_suffixes, "_enc"}


class DenoisingContract(DetectorContract):
    """Tests of a detector with denoising queries.

    Attributes:
        num_groups: how many denoising queries, one in each group, have to find an object of the fixture `batch`.
    """

    num_groups = 5
    aux_suffixes = frozenset({"_0", "_dn_0"})
    other_suffixes = frozenset({"_dn"})

    def test_denoising_leaves_the_other_queries_alone(self, batch):
        model = build_lively(self.config()).double().train()
        with_denoising = predict(model, batch, targets=True)
        model.denoising.eval()  # where it makes no queries; matching queries may need its label embedding
        without = predict(model, batch, targets=True)
        assert set(with_denoising) - set(without) == {"_dn", "_dn_0"}
        for suffix, expected in without.items():
            assert_close(with_denoising[suffix].logits, expected.logits)
            assert_close(with_denoising[suffix].boxes, expected.boxes)

    def test_denoising_starts_from_the_objects(self, batch):
        """Without noise, boxes of denoising queries are the objects' where the box heads say nothing."""
        no_noise = {"denoising.label_noise_prob": 0.0, "denoising.box_noise_scale": 0.0}
        model = build(self.config(**no_noise)).train()
        for parameter in model.bbox_embed.parameters():
            torch.nn.init.zeros_(parameter)
        named = predict(model, batch, targets=True)
        for suffix in ("_dn", "_dn_0"):
            predictions = named[suffix]
            image, query, target = predictions.match
            assert len(target) == self.num_groups * len(predictions.targets.boxes)
            assert_close(predictions.boxes[image, query], predictions.targets.boxes[target], rtol=1e-4, atol=1e-4)

    def test_there_is_no_denoising_in_evaluation_even_with_targets(self, batch):
        model = build_lively(self.config()).eval()
        of_training = {"", *self.aux_suffixes, *self.other_suffixes}
        with torch.no_grad():
            assert set(predict(model, batch, targets=True)) == of_training - {"_dn", "_dn_0"}

    def test_without_objects_denoising_gives_the_label_embedding_a_gradient_of_zeros(self):
        model = build(self.config()).train()
        losses = model([make_input(32, 32, [], [], seed) for seed in range(2)])
        assert all(loss == 0 for name, loss in losses.items() if "_dn" in name)
        sum(losses.values()).backward()
        assert not model.denoising.label_embedding.weight.grad.any()

    def test_the_noise_is_a_key_of_the_config(self):
        noise = {"denoising.label_noise_prob": 0.0, "denoising.box_noise_scale": 0.1}
        denoising = build(self.config(**noise)).denoising
        assert (denoising.label_noise_prob, denoising.box_noise_scale) == (0.0, 0.1)
        assert denoising.num_classes == NUM_CLASSES


class TwoStageContract:
    """Tests of two stages: queries that begin as proposals of an encoder with deformable attention."""

    def config(self, **changes):
        """The config of a small model with two stages; see `DetectorContract.config`."""
        raise NotImplementedError

    def test_two_stages_need_refinement(self):
        with pytest.raises(ValueError, match="as_two_stage=True needs with_box_refine=True: proposals are boxes"):
            build(self.config(with_box_refine=False))

    def test_the_decoder_teaches_the_encoder_nothing_through_its_queries(self, batch):
        model = build_lively(self.config()).train()
        predict(model, batch)["_0"].boxes.square().sum().backward()
        assert [has_gradient(head) for head in model.bbox_embed] == [True, False, False]
        assert not has_gradient(model.transformer.encoder_proposals)

    def test_there_are_no_more_queries_than_tokens(self):
        model = build_lively(self.config()).train()
        named = predict(model, [make_input(8, 8, [[1.0, 1, 6, 6]], [3])], targets=True)
        assert named["_enc"].logits.shape == named[""].logits.shape == (1, 4, NUM_CLASSES)  # four levels of one cell

    def test_padding_proposes_no_query(self, batch):
        """Even where its score is the highest that there can be."""
        model = build_lively(self.config()).double().eval()
        proposals, head = model.transformer.encoder_proposals, model.class_embed[-1]
        with torch.no_grad():
            # Padding is zero before the projection; of vectors of one length, one's product with itself is largest.
            head.weight[0] = proposals.enc_output_norm(proposals.enc_output.bias)
            together = predict(model, batch)[""]
            for index, one in enumerate(batch):
                alone = predict(model, [one])[""]
                assert_close(together.logits[index], alone.logits[0], rtol=1e-6, atol=1e-6)
                assert_close(together.boxes[index], alone.boxes[0], rtol=1e-6, atol=1e-6)


def loss_names(suffixes):
    return {f"loss_{kind}{suffix}" for kind in ("class", "bbox", "giou") for suffix in suffixes}
