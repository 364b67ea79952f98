"""Models of the papers' repositories: the changes of their configs have an effect and agree with the READMEs."""

import re
import shlex
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf
from torch.testing import assert_close

import detrex_lite.projects
from detrex_lite.config import LazyConfig, instantiate, validate
from detrex_lite.modeling.criterion import Comparison
from detrex_lite.modeling.denoising import GroupDenoising
from detrex_lite.structures import box_cxcywh_to_xyxy, generalized_box_iou
from detrex_lite.testing import SMALL, build, build_on_meta, changed
from tests.suites import first_always

from .published import PROJECTS

PAPER = sorted(
    path for path in Path(next(iter(detrex_lite.projects.__path__))).glob("*/configs/models/*_paper.py")
    if path.parents[2].name != "group_detr"  # has no repository, see its README
)  # fmt: skip

MAIN = [path for path in PAPER if path.stem == f"{path.parents[2].name}_r50_paper"]
ROW = re.compile(r"^\| (.+) \| (.+) \| (.+) \| (.+) \| (.+) \|$", re.MULTILINE)

# project -> settings of the paper's repository: eps of the GIoU, eps of the inverse sigmoid, number of detections (if
# there is a suppression, before it), weight of the class loss
SETTINGS = {
    "detr": (0, None, None, 1),
    "conditional_detr": (0, 1e-5, 100, 2),
    "anchor_detr": (0, 1e-5, 100, 2),
    "dab_detr": (1e-6, 1e-3, 300, 1),
    "dn_detr": (1e-6, 1e-3, 300, 1),
    "deformable_detr": (0, 1e-5, 100, 2),
    "dab_deformable_detr": (1e-6, 1e-3, 100, 1),
    "dn_deformable_detr": (1e-6, 1e-3, 100, 1),
    "h_deformable_detr": (0, 1e-5, 100, 2),
    "dino": (1e-6, 1e-3, 300, 1),
    "deta": (0, 1e-5, 10000, 1),
}


def project(path):
    return path.parents[2].name


def small(path, **changes):
    cfg = LazyConfig.load(str(path)).model
    if "dilation" in cfg.backbone:  # not supported by small ResNets
        cfg.backbone.dilation = False
    return build(changed(cfg, {**SMALL, **changes}))


def test_every_repository_has_a_config():
    assert {project(path) for path in MAIN} == set(SETTINGS)


@pytest.mark.parametrize("path", first_always(PAPER, 3), ids=lambda path: path.stem)
def test_models_build_and_resnets_are_frozen_up_to_the_first_stage(path):
    model, cfg = build_on_meta(path)
    if "swin" in path.stem:
        assert all(parameter.requires_grad for parameter in model.backbone.parameters())
    else:
        frozen = {
            name.split(".")[1]
            for name, parameter in model.named_parameters()
            if name.startswith("backbone.") and not parameter.requires_grad
        }
        assert frozen == {"conv1", "layer1"}
        assert cfg.backbone.depth == (101 if "r101" in path.stem else 50)
        # DC5 is the default of the repository of Anchor DETR.
        dilated = "_c5_" not in path.stem if project(path) == "anchor_detr" else "dc5" in path.stem
        assert cfg.backbone.get("dilation", False) == dilated


@pytest.mark.parametrize("path", MAIN, ids=project)
def test_eps_detections_and_loss_weight_are_those_of_the_repository(path):
    giou_eps, sigmoid_eps, num_detections, class_weight = SETTINGS[project(path)]
    model = small(path)
    tiny = torch.tensor([[0.5, 0.5, 0.002, 0.002]], dtype=torch.float64)  # so small that an eps of 1e-6 has an effect
    smaller = tiny * torch.tensor([1.0, 1, 0.9, 0.9])
    comparison = Comparison(
        names=[""], logits=torch.zeros(1, 1, 1), image=torch.zeros(1).long(), query=torch.zeros(1).long(),
        target=torch.zeros(1).long(), boxes=tiny, labels=torch.zeros(1).long(), target_boxes=smaller,
        queries_per_set=[1], matched_per_set=[1], extra={}, target_extra={},
    )  # fmt: skip
    xyxy = [box_cxcywh_to_xyxy(boxes) for boxes in (tiny, smaller)]
    expected = 1 - generalized_box_iou(*xyxy, giou_eps)
    assert (expected - (1 - generalized_box_iou(*xyxy, 1e-6 - giou_eps))).abs() > 0.01
    assert_close(model.criterion.losses["loss_giou"](comparison), expected)
    matcher = model.criterion.matcher
    assert (matcher.costs["giou"] if hasattr(matcher, "costs") else matcher).eps == giou_eps
    assert model.criterion.weights["loss_class"] == class_weight
    assert getattr(model.postprocessor, "num_detections", None) == num_detections
    if sigmoid_eps is not None:
        reference = torch.full((1, 1, 4), 1e-9, dtype=torch.float64)
        assert_close(
            model.heads.boxes(torch.zeros(1, 1, 4, dtype=torch.float64), reference),
            torch.full((1, 1, 4), sigmoid_eps / (1 + sigmoid_eps), dtype=torch.float64),
        )


@pytest.mark.parametrize("name", ["anchor_detr", "conditional_detr", "dab_detr", "dn_detr"])
def test_decoders_of_one_feature_map_do_not_attend_to_padding(name):
    (path,) = (path for path in MAIN if project(path) == name)
    assert small(path).transformer.mask_memory_padding


@pytest.mark.parametrize("name", ["dn_detr", "dn_deformable_detr", "dino"])
def test_padded_denoising_queries_are_only_in_the_loss_of_dino(name):
    (path,) = (path for path in MAIN if project(path) == name)
    denoising = small(path).denoising
    assert denoising.padding_in_loss == (name == "dino")
    assert isinstance(denoising, GroupDenoising) == (name != "dino")


@pytest.mark.parametrize("name", ["dab_deformable_detr", "dn_deformable_detr"])
def test_initial_contents_and_boxes_are_normally_distributed(name):
    (path,) = (path for path in MAIN if project(path) == name)
    queries = small(path, num_queries=2000).queries
    for weight in (queries.content.weight, queries.boxes.weight):
        assert_close(weight.std(), torch.tensor(1.0), rtol=0.05, atol=0)


@pytest.mark.parametrize("name", ["dab_detr", "dn_detr"])
def test_initial_anchors_and_patterns_are_normally_distributed(name):
    path = PROJECTS / f"{name}/configs/models/{name}_r50_paper.py"
    queries = small(path, num_queries=2000, num_patterns=30).queries
    for weight in (queries.boxes.weight[:, :2], queries.patterns.weight):
        assert_close(weight.std(), torch.tensor(1.0), rtol=0.05, atol=0)


@pytest.mark.parametrize("path", [path for path in PAPER if project(path) == "dino"], ids=lambda path: path.stem)
def test_dino_shares_the_heads_of_its_decoder_and_has_the_positions_of_dab_detr(path):
    model, _ = build_on_meta(path)
    for heads in (model.heads.class_embed, model.heads.bbox_embed):
        assert len({id(head) for head in heads[:6]}) == 1
        assert heads[6] is not heads[0]
    positions, levels = model.position_embedding, 5 if "5scale" in path.stem else 4
    assert (positions.temperature, positions.offset) == (20, 0)
    assert len(model.transformer.level_embeds) == levels
    assert len(model.neck.convs) == levels - 1
    assert len(model.neck.extra_convs) == 1


@pytest.mark.parametrize(("refine", "two_stages"), [(False, False), (True, False), (True, True)])
def test_variants_of_deformable_detr_are_overrides(refine, two_stages):
    path = PROJECTS / "deformable_detr/configs/models/deformable_detr_r50_paper.py"
    model = small(path, with_box_refine=refine, as_two_stage=two_stages)
    layers = model.transformer.decoder.num_layers
    assert len(model.heads.bbox_embed) == layers + two_stages
    assert len({id(head) for head in model.heads.bbox_embed}) == (layers + two_stages if refine else 1)
    sizes = [head.layers[-1].bias[2:].tolist() for head in model.heads.bbox_embed]
    assert sizes[0] == ([0, 0] if two_stages else [-2, -2])
    assert (sizes[1] == [0, 0]) == refine


def test_h_deformable_detr_has_the_settings_of_the_published_script():
    cfg = LazyConfig.load(str(PROJECTS / "h_deformable_detr/configs/models/h_deformable_detr_r50_paper.py")).model
    model = small(PROJECTS / "h_deformable_detr/configs/models/h_deformable_detr_r50_paper.py")
    assert model.heads.look_forward_twice
    assert model.queries.mixed_selection
    assert (cfg.num_queries, cfg.num_queries_one2many, cfg.queries.layout.one2many_repeats) == (300, 1500, 6)
    assert (
        cfg.transformer.encoder.layer.ffn.feedforward_dim == cfg.transformer.decoder.layer.ffn.feedforward_dim == 2048
    )
    drops = [module.p for module in model.modules() if isinstance(module, torch.nn.Dropout)]
    assert set(drops) == {0.0}


# training -> its learning rates; the lower one is that of the backbone and of sampling offsets
RATES = {
    "h_deformable_detr_r50_paper_12ep": {2e-4, 2e-5},
    "deformable_detr_r50_paper_50ep": {2e-4, 2e-5},
    "deta_r50_paper_12ep": {2e-4, 2e-5},
    "dino_r50_4scale_paper_12ep": {1e-4, 1e-5},
    "dab_detr_r50_paper_50ep": {1e-4, 1e-5},
}


@pytest.mark.parametrize("name", first_always(RATES, 3))
def test_trainings_of_the_papers_decay_all_parameters(name):
    (path,) = PROJECTS.glob(f"*/configs/{name}.py")
    cfg = LazyConfig.load(str(path))
    model, _ = build_on_meta(path)
    cfg.optimizer.params.model = model
    optimizer = instantiate(cfg.optimizer)
    assert {group["weight_decay"] for group in optimizer.param_groups} == {1e-4}
    assert {round(group["lr"], 9) for group in optimizer.param_groups} == RATES[name]
    rate_of = {id(parameter): group["lr"] for group in optimizer.param_groups for parameter in group["params"]}
    slow = {
        key
        for key, parameter in model.named_parameters()
        if parameter.requires_grad and rate_of[id(parameter)] < max(RATES[name]) / 2
    }
    deformable = name.startswith(("deformable", "h_deformable", "deta"))
    assert any(key.startswith("backbone.") for key in slow)
    assert any("sampling_offsets" in key for key in slow) == deformable
    assert not cfg.dataloader.train.aspect_ratio_grouping


def readme_rows(readme):
    section = readme.read_text().split("\n## What differs\n")[1].split("\n## ")[0]
    rows = ROW.findall(section)
    assert rows[0] == ("point", "paper's repository", "detrex", "here", "key")
    return rows[1:]


@pytest.mark.parametrize("path", MAIN, ids=project)
def test_readmes_list_exactly_the_changes_of_the_config(path):
    """With the keys of the rows in which this project follows detrex, its config becomes that of the paper."""
    overrides = []
    for _, _, _, followed, key in readme_rows(path.parents[2] / "README.md"):
        if followed == "as detrex" or followed.startswith("models as detrex,"):
            overrides += [override for override in shlex.split(key.strip("`")) if override.startswith("model.")]
    # The paper's repository does not support two stages.
    overrides = [override for override in overrides if override != "model.as_two_stage=True"]
    base = LazyConfig.load(str(path.with_name(path.name.replace("_paper", ""))))
    changed_config = LazyConfig.apply_overrides(base, overrides)
    assert OmegaConf.to_container(changed_config.model) == OmegaConf.to_container(LazyConfig.load(str(path)).model)


def keys_of(readme):
    """The cells of the column "key" in a README's table of differences; empty without this column."""
    section = readme.read_text().partition("\n## What differs\n")[2].split("\n## ")[0]
    rows = [line.strip("|").split("|") for line in section.splitlines() if line.startswith("| ")]
    return [row[-1].strip() for row in rows[1:]] if rows and rows[0][-1].strip() == "key" else []


READMES = [readme for readme in sorted(PROJECTS.glob("*/README.md")) if keys_of(readme)]


def test_most_readmes_have_keys():
    assert len(READMES) > 10


@pytest.mark.parametrize("readme", first_always(READMES), ids=lambda path: path.parent.name)
def test_keys_of_readmes_are_valid_and_change_the_config(readme):
    leaf = readme.parent / re.search(r"\]\((configs/\w+\.py)\)", readme.read_text())[1]
    before = LazyConfig.load(str(leaf))
    main = readme.parent / f"configs/models/{readme.parent.name}_r50.py"
    if main.exists():
        before.model = LazyConfig.load(str(main)).model
    keys = [override for key in keys_of(readme) if key != "-" for override in shlex.split(key.strip("`"))]
    assert keys
    for override in keys:
        after = LazyConfig.apply_overrides(before.copy(), [override])
        validate(after)
        key = override.split("=")[0]
        old, new = (OmegaConf.select(cfg, key) for cfg in (before, after))
        assert old != new, override


def test_keys_for_every_detector_are_valid():
    text = (PROJECTS.parent / "docs/fidelity.md").read_text()
    overrides = [key.strip("`") for *_, key in ROW.findall(text) if key.startswith("`")]
    assert len(overrides) >= 5
    leaf = LazyConfig.load(str(PROJECTS / "dino/configs/dino_r50_4scale_12ep.py"))
    validate(LazyConfig.apply_overrides(leaf, overrides))
