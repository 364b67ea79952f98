"""DAB-DETR as a whole. Models are small; their structure is that of the configs."""

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from detrex_lite.checkpoint import load_checkpoint
from detrex_lite.config import get_config
from detrex_lite.projects.dab_detr.modeling.transformer import modulate

from .contract import (
    NUM_CLASSES,
    NUM_QUERIES,
    PROJECTS,
    SMALL,
    DetectorContract,
    build,
    build_lively,
    build_on_meta,
    changed,
    huggingface_resnet_config,
    huggingface_weights,
    parameter_patterns,
    predict,
)

CONFIGS = PROJECTS / "dab_detr" / "configs"


def small_config(**changes):
    cfg = get_config("projects/dab_detr/configs/models/dab_detr_r50.py").model
    return changed(cfg, {**SMALL, "in_channels": 512, **changes})


class TestDABDETR(DetectorContract):
    max_detections = 20

    @pytest.fixture(autouse=True, params=[True, False], ids=["modulated", "not_modulated"])
    def _variant(self, request):
        self.modulated = request.param

    def config(self, **changes):
        return small_config(**{"transformer.decoder.modulate_hw_attn": self.modulated, **changes})


def relative_to_configs(path):
    return path.relative_to(CONFIGS).as_posix()


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("**/*.py")), ids=relative_to_configs)
def test_every_config_builds(path):
    model, cfg = build_on_meta(path)
    assert model.class_embed.out_features == model.num_classes == cfg.num_classes
    assert model.anchor_box_embed.weight.shape == (cfg.num_queries, 4)
    assert (model.patterns is not None) == ("patterns" in path.stem)
    assert ("dc5" in path.stem) == cfg.backbone.get("dilation", False)


def test_there_are_configs_of_every_variant():
    models = {path.stem for path in CONFIGS.glob("models/*.py")}
    assert models == {f"dab_detr_{name}" for name in ("r50", "r101", "r50_dc5", "r101_dc5", "r50_3patterns")}
    assert {f"{name}_50ep" for name in models} <= {path.stem for path in CONFIGS.glob("*.py")}


def test_boxes_of_a_new_model_are_the_anchors(batch):
    """A box head that says nothing moves nothing, in no layer."""
    model = build(small_config()).eval()
    with torch.no_grad():
        named = predict(model, batch)
        anchors = model.anchor_box_embed().expand(len(batch), -1, -1)
    assert set(named) == {"", "_0"}
    for predictions in named.values():
        inside = (anchors > 1e-3) & (anchors < 1 - 1e-3)
        assert_close(predictions.boxes[inside], anchors[inside])


def test_patterns_make_a_query_of_each_anchor_and_pattern(batch):
    model = build_lively(small_config(num_patterns=3)).double().train()
    contents, anchors = model.learned_queries(len(batch))
    assert contents.shape == (3, 3 * NUM_QUERIES, 64)
    assert_close(contents.unflatten(1, (3, NUM_QUERIES))[0, :, 4], model.patterns.weight)
    assert_close(anchors.unflatten(1, (3, NUM_QUERIES))[0, 2], model.anchor_box_embed())
    predictions = predict(model, batch)[""]
    assert predictions.logits.shape == (3, 3 * NUM_QUERIES, NUM_CLASSES)
    sum(model(batch).values()).backward()
    assert model.patterns.weight.grad.any(dim=1).all()


def test_published_patterns_load():
    model = build(small_config(num_patterns=3))
    state = {"transformer.patterns.weight": torch.randn(3, 64), "backbone.stem.conv1.weight": torch.zeros(64, 3, 7, 7)}
    report = load_checkpoint(model, state)
    assert report.unexpected == []
    assert_close(model.patterns.weight, state["transformer.patterns.weight"])


def test_references_have_the_gradient_of_one_layer():
    """A layer's boxes refer to anchors that teach the layer before, and nothing earlier."""
    model = build(small_config(**{"transformer.decoder.num_layers": 3})).double()
    anchors = torch.rand(1, NUM_QUERIES, 4, dtype=torch.float64, requires_grad=True)
    content, memory, pos = (torch.randn(1, n, 64, dtype=torch.float64) for n in (NUM_QUERIES, 6, 6))
    box_head = nn.Linear(64, 4).double()
    nn.init.zeros_(box_head.weight)  # offsets are the bias, whatever queries are
    _, references = model.transformer.decoder(content, memory, anchors=anchors, pos=pos, box_head=box_head)
    assert_close(references[0], anchors)
    for moved in references[1:]:
        (gradient,) = torch.autograd.grad(moved.sum(), box_head.bias, retain_graph=True)
        assert_close(gradient, (moved * (1 - moved)).sum(dim=(0, 1)))
    assert torch.autograd.grad(references[1].sum(), anchors, retain_graph=True)[0].all()
    assert not torch.autograd.grad(references[2].sum(), anchors)[0].any()


def test_further_queries_that_are_masked_change_nothing(batch):
    """What denoising needs: queries in front that the others do not see."""
    model = build_lively(small_config()).double().eval()
    images, number = model.preprocess(batch), 3
    contents, anchors = model.learned_queries(len(batch))
    further = torch.randn(3, number, 64, dtype=torch.float64), torch.rand(3, number, 4, dtype=torch.float64)
    mask = torch.zeros(number + NUM_QUERIES, number + NUM_QUERIES, dtype=torch.bool)
    mask[number:, :number] = True
    with torch.no_grad():
        want = model.decode(images, contents, anchors)
        more = torch.cat([further[0], contents], dim=1), torch.cat([further[1], anchors], dim=1)
        masked = model.decode(images, *more, attn_mask=mask)
        seen = model.decode(images, *more)
    for one, other, third in zip(want, masked, seen, strict=True):
        assert_close(other[:, :, number:], one)
        assert (third[:, :, number:] - one).abs().max() > 1e-3


def test_modulation_scales_y_by_heights_and_x_by_widths():
    place = torch.randn(2, 3, 8)
    expected, sizes = torch.rand(2, 3, 2), torch.rand(2, 3, 2) + 0.1
    got = modulate(place, expected, sizes)
    assert_close(got[..., :4], place[..., :4] * (expected[..., 1:] / sizes[..., 1:]))
    assert_close(got[..., 4:], place[..., 4:] * (expected[..., :1] / sizes[..., :1]))


def test_parameter_names_are_stable():
    model = build(small_config(num_patterns=2))
    layer = {"ffns.N.layers.N.*", "ffns.N.activations.N.*", "norms.N.*"}
    plain = {"attentions.N.in_proj_weight", "attentions.N.in_proj_bias", "attentions.N.out_proj.*"}
    parts = {f"{one}_{kind}" for one in ("query", "key") for kind in ("content", "pos")} | {"value", "query_pos_sine"}
    conditional = {f"attentions.N.{part}_proj.*" for part in parts | {"out"}}
    want = {"input_proj.*", "class_embed.*", "bbox_embed.layers.N.*", "anchor_box_embed.*", "patterns.*"}
    want |= {f"transformer.encoder.layers.N.{name}" for name in layer | plain}
    want |= {f"transformer.decoder.layers.N.{name}" for name in layer | conditional}
    want |= {f"transformer.decoder.{head}.layers.N.*" for head in ("ref_point_head", "ref_anchor_head", "query_scale")}
    want |= {"transformer.encoder.query_scale.layers.N.*", "transformer.decoder.post_norm_layer.*"}
    assert parameter_patterns(model) == want
    crosses = [layer.attentions[1] for layer in model.transformer.decoder.layers]
    assert [cross.query_pos_proj is not None for cross in crosses] == [True, False]


# The names of transformers' DabDetrForObjectDetection.
HUGGINGFACE_RULES = (
    (r"^model\.query_refpoint_embeddings\.", "anchor_box_embed."),
    (r"^model\.patterns\.", "patterns."),
    (r"\.(mlp\.)?activation_fn\.", ".ffns.0.activations.0."),
    (r"\.self_attn\.self_attn_layer_norm\.", ".norms.0."),
    (r"\.cross_attn\.cross_attn_layer_norm\.", ".norms.1."),
    (r"\.mlp\.final_layer_norm\.", ".norms.2."),
    (r"\.self_attn\.self_attn\.output_proj\.", ".attentions.0.out_proj."),
    (r"\.cross_attn\.cross_attn\.output_proj\.", ".attentions.1.out_proj."),
    (r"\.self_attn\.self_attn_", ".attentions.0."),
    (r"\.cross_attn\.cross_attn_", ".attentions.1."),
)


def huggingface_model():
    from transformers import DabDetrConfig, DabDetrForObjectDetection

    torch.manual_seed(0)
    model = DabDetrForObjectDetection(
        DabDetrConfig(
            use_timm_backbone=False,
            use_pretrained_backbone=False,
            backbone=None,
            backbone_config=huggingface_resnet_config("stage4"),
            hidden_size=64,
            encoder_layers=2,
            decoder_layers=2,
            encoder_attention_heads=4,
            decoder_attention_heads=4,
            encoder_ffn_dim=96,
            decoder_ffn_dim=96,
            num_queries=NUM_QUERIES,
            num_patterns=3,
            num_labels=NUM_CLASSES,
        )
    ).double()
    model.model.decoder.bbox_embed = model.bbox_predictor
    for name, parameter in model.named_parameters():  # fresh weights are too small and too alike to tell models apart
        if parameter.dim() == 1:
            nn.init.normal_(parameter, mean=float("norm.weight" in name), std=0.2)
        elif "embeddings" in name or "patterns" in name:
            nn.init.normal_(parameter)
        else:  # boxes must not run into the borders, where all are alike
            nn.init.xavier_normal_(parameter, gain=1.0 if "bbox" in name else 2.0)
    return model.eval()


def test_agrees_with_transformers_implementation(batch):
    """With patterns. That implementation computes attention weights in float32 whatever the model's precision."""
    transformers = pytest.importorskip("transformers")
    transformers.logging.set_verbosity_error()
    theirs = huggingface_model()
    ours = build(small_config(num_patterns=3)).double().eval()
    report = load_checkpoint(ours, huggingface_weights(theirs.state_dict(), HUGGINGFACE_RULES))
    assert report.missing == []
    assert report.unexpected == []
    for one in batch:
        with torch.no_grad():
            images = ours.preprocess([one])
            got, want = ours.predict(images)[""], theirs(images.tensor)
        for mine, other in (got.logits, want.logits), (got.boxes, want.pred_boxes):
            assert_close(mine, other, rtol=1e-4, atol=1e-5)
            assert mine.std(dim=(0, 1)).min() > 1e-2  # queries differ by far more than what is tolerated
