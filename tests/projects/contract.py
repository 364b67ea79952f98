"""What every detector must do: tests that the test file of each detector runs on small models of its own.

The file has a `class TestNewDETR(DetectorContract)` that writes `config`, and what is particular to that detector.
"""

import re
from collections.abc import Mapping
from types import MappingProxyType

import pytest
import torch
from omegaconf import OmegaConf
from torch.testing import assert_close

from detrex_lite.config import LazyConfig, instantiate
from detrex_lite.structures import Boxes, Instances

from .fake_gpu import losses_on_a_fake_gpu

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
    names = re.compile(r"model\.backbone\.model\.(?:embedder\.embedder|encoder\.stages\.(\d)\.layers\.(\d))\.(.+)")
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
        for pattern, replacement in rules:
            name = re.sub(pattern, replacement, name)
        renamed[name] = value
        if name.startswith(("class_embed.", "bbox_embed.")):
            renamed[f"transformer.decoder.{name}"] = value
    return renamed


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
        pixel_tolerance: how far boxes may be apart in float64, where the default of `assert_close` is too near.
    """

    max_detections = NUM_QUERIES
    aux_suffixes = frozenset({"_0"})
    other_suffixes: frozenset[str] = frozenset()
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
        model = build_lively(self.config()).eval()
        with torch.no_grad():
            single = model(batch)
            double = model.double()(batch)
        for one, other in zip(single, double, strict=True):
            one, other = one["instances"], other["instances"]
            assert one.scores.dtype == torch.float32
            assert other.scores.dtype == torch.float64
            assert_close(one.scores.double(), other.scores, rtol=1e-4, atol=1e-5)
            assert_close(one.pred_boxes.tensor.double(), other.pred_boxes.tensor, rtol=1e-4, atol=1e-2)

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


def loss_names(suffixes):
    return {f"loss_{kind}{suffix}" for kind in ("class", "bbox", "giou") for suffix in suffixes}
