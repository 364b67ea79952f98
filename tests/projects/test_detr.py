"""DETR as a whole. Models are small; their structure is that of the configs."""

import re

import pytest
import torch
from torch.testing import assert_close

from detrex_lite.checkpoint import load_checkpoint
from detrex_lite.config import get_config, instantiate
from detrex_lite.structures import Boxes, Instances

MODELS = "projects/detr/configs/models"


def small_config(name="detr_small", **changes):
    cfg = get_config(f"{MODELS}/{name}.py").model
    cfg.num_classes = 5
    cfg.num_queries = 7
    cfg.transformer.encoder.num_layers = 2
    cfg.transformer.decoder.num_layers = 2
    for key, value in changes.items():
        cfg[key] = value
    return cfg


def build(cfg, seed=0):
    torch.manual_seed(seed)
    return instantiate(cfg)


def make_input(height, width, boxes, classes, seed=0):
    generator = torch.Generator().manual_seed(seed)
    image = torch.randint(256, (3, height, width), dtype=torch.uint8, generator=generator)
    instances = Instances((height, width), gt_boxes=Boxes(boxes), gt_classes=torch.tensor(classes, dtype=torch.int64))
    return {"image": image, "height": 2 * height, "width": 2 * width, "instances": instances}


@pytest.fixture
def batch():
    return [
        make_input(64, 96, [[4.0, 8, 40, 50], [50, 10, 90, 60]], [1, 4], seed=1),
        make_input(80, 56, [], [], seed=2),
        make_input(48, 64, [[10.0, 10, 20, 30]], [0], seed=3),
    ]


@pytest.mark.parametrize("pre_norm", [False, True])
def test_an_image_gives_the_same_detections_alone_and_in_a_padded_batch(batch, pre_norm):
    cfg = small_config()
    cfg.transformer.encoder.pre_norm = pre_norm
    model = build(cfg).double().eval()
    with torch.no_grad():
        together = model(batch)
        for one, padded in zip(batch, together, strict=True):
            (alone,) = model([one])
            for field in ("scores", "pred_classes"):
                assert_close(padded["instances"].get(field), alone["instances"].get(field))
            assert_close(padded["instances"].pred_boxes.tensor, alone["instances"].pred_boxes.tensor)


def test_float32_agrees_with_float64(batch):
    model = build(small_config()).eval()
    with torch.no_grad():
        single = model(batch)
        double = model.double()(batch)
    for one, other in zip(single, double, strict=True):
        one, other = one["instances"], other["instances"]
        assert one.scores.dtype == torch.float32
        assert other.scores.dtype == torch.float64
        assert_close(one.scores.double(), other.scores, rtol=1e-4, atol=1e-5)
        assert_close(one.pred_boxes.tensor.double(), other.pred_boxes.tensor, rtol=1e-4, atol=1e-2)


def test_losses_have_the_names_of_all_layers_and_every_parameter_learns(batch):
    model = build(small_config()).train()
    losses = model(batch)
    assert set(losses) == {f"loss_{kind}{suffix}" for kind in ("class", "bbox", "giou") for suffix in ("", "_0")}
    sum(losses.values()).backward()
    idle = [name for name, parameter in model.named_parameters() if parameter.grad is None]
    assert idle == []


def test_without_auxiliary_losses(batch):
    model = build(small_config(aux_loss=False)).train()
    assert set(model(batch)) == {"loss_class", "loss_bbox", "loss_giou"}


def test_a_batch_without_objects_trains():
    model = build(small_config()).train()
    losses = model([make_input(32, 32, [], [], seed) for seed in range(2)])
    total = sum(losses.values())
    total.backward()
    assert torch.isfinite(total)


def test_one_class_and_a_feature_map_of_one_cell():
    model = build(small_config(num_classes=1)).train()
    losses = model([make_input(8, 8, [[1.0, 1, 6, 6]], [0], seed) for seed in range(2)])
    assert all(torch.isfinite(loss) for loss in losses.values())
    model.eval()
    (found,) = model([make_input(8, 8, [], [])])
    assert (found["instances"].pred_classes == 0).all()


def test_mixed_precision_trains(batch):
    model = build(small_config()).train()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        losses = model(batch)
    assert all(loss.dtype == torch.float32 for loss in losses.values())
    sum(losses.values()).backward()


def test_detections_lie_in_the_frame_that_the_input_asks_for(batch):
    model = build(small_config()).eval()
    with torch.no_grad():
        found = model(batch)[0]["instances"]
    assert found.image_size == (128, 192)
    assert (found.pred_boxes.tensor >= 0).all()
    assert (found.pred_boxes.tensor[:, 2] <= 192).all()
    assert len(found) <= 7


def test_errors_name_the_image(batch):
    model = build(small_config()).train()
    batch[2]["instances"].gt_classes[0] = 5
    with pytest.raises(ValueError, match="image number 2 of the batch has label 5, .* num_classes=5"):
        model(batch)
    with pytest.raises(ValueError, match=r"image a.png has shape \(1, 4, 4\); expected \(3, H, W\)"):
        model([{"image": torch.zeros(1, 4, 4), "file_name": "a.png"}])
    with pytest.raises(ValueError, match="at least one image"):
        model([])
    with pytest.raises(ValueError, match="num_classes=0"):
        build(small_config(num_classes=0))


@pytest.mark.parametrize("name", ["detr_r50", "detr_r101", "detr_r50_dc5", "detr_r101_dc5", "detr_small"])
def test_every_model_config_builds(name):
    with torch.device("meta"):
        model = instantiate(get_config(f"{MODELS}/{name}.py").model)
    assert model.num_classes == 80
    assert model.class_embed.out_features == 81


def test_parameter_names_are_stable():
    model = build(small_config("detr_small"))
    names = {re.sub(r"\.\d+\.", ".N.", name) for name in model.state_dict() if not name.startswith("backbone.")}
    attention = {f"{part}_proj{end}" for part, end in [("in", "_weight"), ("in", "_bias"), ("out", ".weight")]}
    assert {f"transformer.encoder.layers.N.attentions.N.{name}" for name in attention} <= names
    assert {
        "query_embed.weight",
        "input_proj.weight",
        "class_embed.weight",
        "bbox_embed.layers.N.weight",
        "transformer.decoder.layers.N.ffns.N.layers.N.weight",
        "transformer.decoder.layers.N.norms.N.weight",
        "transformer.decoder.post_norm_layer.weight",
    } <= names


def huggingface_state(state, *, num_encoder_layers, num_decoder_layers):
    """The weights of transformers' DetrForObjectDetection under this project's names."""
    fixed = {
        "query_embed.weight": "model.query_position_embeddings.weight",
        "transformer.decoder.post_norm_layer.weight": "model.decoder.layernorm.weight",
        "transformer.decoder.post_norm_layer.bias": "model.decoder.layernorm.bias",
    }
    for leaf in ("weight", "bias"):
        fixed[f"input_proj.{leaf}"] = f"model.input_projection.{leaf}"
        fixed[f"class_embed.{leaf}"] = f"class_labels_classifier.{leaf}"
        for layer in range(3):
            fixed[f"bbox_embed.layers.{layer}.{leaf}"] = f"bbox_predictor.layers.{layer}.{leaf}"
    renamed = {ours: state[theirs] for ours, theirs in fixed.items()}

    for side, count, attentions in (
        ("encoder", num_encoder_layers, ["self_attn"]),
        ("decoder", num_decoder_layers, ["self_attn", "encoder_attn"]),
    ):
        for layer in range(count):
            theirs, ours = f"model.{side}.layers.{layer}", f"transformer.{side}.layers.{layer}"
            for leaf in ("weight", "bias"):
                for number, attention in enumerate(attentions):
                    packed = [state[f"{theirs}.{attention}.{part}_proj.{leaf}"] for part in "qkv"]
                    renamed[f"{ours}.attentions.{number}.in_proj_{leaf}"] = torch.cat(packed)
                    renamed[f"{ours}.attentions.{number}.out_proj.{leaf}"] = state[
                        f"{theirs}.{attention}.o_proj.{leaf}"
                    ]
                for number, norm in enumerate([*(f"{name}_layer_norm" for name in attentions), "final_layer_norm"]):
                    renamed[f"{ours}.norms.{number}.{leaf}"] = state[f"{theirs}.{norm}.{leaf}"]
                for number in (1, 2):
                    renamed[f"{ours}.ffns.0.layers.{number - 1}.{leaf}"] = state[f"{theirs}.mlp.fc{number}.{leaf}"]

    backbone = re.compile(r"model\.backbone\.model\.(?:embedder\.embedder|encoder\.stages\.(\d)\.layers\.(\d))\.(.+)")
    for name, value in state.items():
        found = backbone.fullmatch(name)
        if found is None or name.endswith("num_batches_tracked"):
            continue
        stage, block, rest = found.groups()
        if stage is None:
            ours = rest.replace("convolution", "conv1").replace("normalization", "bn1")
        else:
            rest = re.sub(r"layer\.(\d)\.convolution", lambda n: f"conv{int(n[1]) + 1}", rest)
            rest = re.sub(r"layer\.(\d)\.normalization", lambda n: f"bn{int(n[1]) + 1}", rest)
            rest = rest.replace("shortcut.convolution", "downsample.0").replace(
                "shortcut.normalization", "downsample.1"
            )
            ours = f"layer{int(stage) + 1}.{block}.{rest}"
        renamed[f"backbone.{ours}"] = value
    return renamed


def test_agrees_with_transformers_implementation(batch):
    transformers = pytest.importorskip("transformers")
    from transformers import DetrConfig, DetrForObjectDetection, ResNetConfig

    transformers.logging.set_verbosity_error()
    torch.manual_seed(0)
    theirs = DetrForObjectDetection(
        DetrConfig(
            use_timm_backbone=False,
            use_pretrained_backbone=False,
            backbone_config=ResNetConfig(
                layer_type="basic",
                depths=[2, 2, 2, 2],
                hidden_sizes=[64, 128, 256, 512],
                embedding_size=64,
                out_features=["stage4"],
            ),
            d_model=64,
            encoder_layers=2,
            decoder_layers=2,
            encoder_attention_heads=8,
            decoder_attention_heads=8,
            encoder_ffn_dim=96,
            decoder_ffn_dim=96,
            num_queries=7,
            num_labels=5,
        )
    ).double()
    for parameter in theirs.parameters():  # fresh weights are too small and too alike to tell models apart
        torch.nn.init.normal_(parameter, std=0.2) if parameter.dim() == 1 else torch.nn.init.xavier_normal_(parameter)
    theirs.eval()

    cfg = small_config("detr_r50", embed_dim=64, in_channels=512)
    cfg.backbone.depth = 18
    cfg.position_embedding.num_pos_feats = 32
    cfg.transformer.encoder.feedforward_dim = 96
    cfg.transformer.encoder.dropout = 0.0
    # In training mode images run in one padded batch, as that implementation runs them always.
    ours = build(cfg).double().train()
    state = huggingface_state(theirs.state_dict(), num_encoder_layers=2, num_decoder_layers=2)
    report = load_checkpoint(ours, state)
    assert report.missing == []
    assert report.unexpected == []

    with torch.no_grad():
        images = ours.preprocess(batch)
        got = ours.predict(images)[""]
        want = theirs(images.tensor, pixel_mask=(~images.mask).long())
    assert_close(got.logits, want.logits, rtol=1e-6, atol=1e-6)
    assert_close(got.boxes, want.pred_boxes, rtol=1e-6, atol=1e-6)
    assert got.logits.std() > 0.1
