"""Every ablation of the papers is a single override of a config, written as on the command line."""

import functools

import pytest
import torch
from omegaconf import OmegaConf

from detrex_lite.config import LazyConfig, get_config, validate
from detrex_lite.testing import SMALL, build, changed, make_input, require_all_gradients

RELATION = "{_target_: detrex_lite.modeling.PositionRelation, num_heads: 4}"
FUSION = (
    "{_target_: detrex_lite.modeling.deformable.MemoryFusion, embed_dim: '${....embed_dim}', "
    "num_layers: '${..num_layers}'}"
)
POSITION_COST = "{_target_: detrex_lite.modeling.PositionModulatedCost}"
POSITION_LOSS = "{_target_: detrex_lite.modeling.PositionSupervisedLoss}"
NORM = "{_target_: torch.nn.LayerNorm, normalized_shape: '${...embed_dim}'}"
VARIFOCAL = "{_target_: detrex_lite.modeling.VarifocalLoss, alpha: 0.75, gamma: 2.0}"

SINGLE_LEVEL = ("detr", "conditional_detr", "dab_detr", "dn_detr")
ATTENTION = "_target_=detrex_lite.layers.RowColumnDecoupledAttention"
DEFORMABLE = ("deformable_detr", "dab_deformable_detr", "dn_deformable_detr", "dino", "relation_detr")
WITH_DENOISING = ("dn_detr", "dn_deformable_detr", "dino")
ALL_PROJECTS = (*SINGLE_LEVEL, *DEFORMABLE, "h_deformable_detr")
FAMILIES = ("detr", "conditional_detr", "dab_detr", "deformable_detr", "dino")

# override -> the projects with which it is tested
ABLATIONS = {
    # Boxes.
    "with_box_refine=true": ("deformable_detr",),
    "with_box_refine=false": ("dab_deformable_detr", "dn_deformable_detr"),
    "as_two_stage=true": ("dab_deformable_detr", "dn_deformable_detr"),
    "as_two_stage=false": ("dino", "h_deformable_detr"),
    "queries.mixed_selection=false": ("dino", "h_deformable_detr"),
    "heads.look_forward_twice=true": ("dab_deformable_detr",),
    "heads.look_forward_twice=false": ("dab_detr", "dino", "h_deformable_detr", "relation_detr"),
    "heads.with_box_refine=true": ("conditional_detr", "anchor_detr"),
    "share_heads=true": ("dab_deformable_detr", "dino", "relation_detr"),
    "share_heads=false": ("deformable_detr",),
    "heads.share_heads=false": ("detr", "dab_detr"),
    "heads.norm=null": ("detr", "dab_detr", "dino"),
    f"heads.norm={NORM}": ("deformable_detr",),
    "queries.centers=learned": ("dab_detr",),
    # Denoising.
    "denoising=null": WITH_DENOISING,
    "denoising.label_noise_prob=0": WITH_DENOISING,
    "denoising.box_noise_scale=0": WITH_DENOISING,
    "denoising.with_negatives=false": ("dino", "relation_detr"),
    "denoising.num_groups=2": ("dn_detr", "dn_deformable_detr"),
    "denoising.padding_in_loss=true": ("dn_detr", "dn_deformable_detr"),
    "denoising.padding_in_loss=false": ("dino",),
    "denoising.mask_padding=true": ("dn_detr", "dino"),
    # Additional queries.
    "num_patterns=3": ("dab_detr", "dn_detr"),
    "num_patterns=1": ("anchor_detr",),
    "input_norm=null": ("anchor_detr",),
    "queries.layout.num_groups=3": ALL_PROJECTS,
    "queries.layout.num_groups=1": ("group_detr",),
    "num_queries_one2many=21": (*DEFORMABLE[:-1],),
    "num_queries_one2many=0": ("h_deformable_detr", "relation_detr"),
    "queries.layout.num_queries_one2many=21": SINGLE_LEVEL,
    # Attention.
    f"transformer.decoder.relation={RELATION}": (*SINGLE_LEVEL, *DEFORMABLE[:-1], "h_deformable_detr"),
    "transformer.decoder.relation=null": ("relation_detr",),
    f"transformer.encoder.memory_fusion={FUSION}": (*DEFORMABLE[:-1], "h_deformable_detr"),
    "transformer.encoder.memory_fusion=null": ("relation_detr",),
    "transformer.encoder.num_layers=0": ("detr",),
    f"transformer.encoder.layer.attn.{ATTENTION}": ("detr", "dab_detr"),
    f"transformer.decoder.layer.attn[1].{ATTENTION}": ("detr",),
    "transformer.encoder.layer.attn.num_points=2": ("deformable_detr", "dino"),
    "transformer.mask_memory_padding=false": ("detr", "dab_detr"),
    "transformer.decoder.modulate_hw_attn=false": ("dab_detr", "dn_detr"),
    "transformer.decoder.scale_positions=false": ("dab_deformable_detr", "relation_detr"),
    "transformer.decoder.scale_positions=true": ("dino",),
    "transformer.decoder.temperature=20": ("conditional_detr", "dab_detr", "dab_deformable_detr", "dino"),
    "position_embedding.temperature=30": FAMILIES,
    # Layers.
    "transformer.encoder.layer.operation_order=[norm,self_attn,norm,ffn]": FAMILIES,
    "transformer.decoder.layer.operation_order=[norm,self_attn,norm,cross_attn,norm,ffn]": FAMILIES,
    "transformer.encoder.layer.ffn.activation._target_=torch.nn.GELU": FAMILIES,
    "transformer.decoder.layer.ffn.activation._target_=torch.nn.GELU": FAMILIES,
    # Losses.
    "aux_loss=false": ALL_PROJECTS,
    f"criterion.losses.loss_class={VARIFOCAL}": ("dab_detr", "dino"),
    f"criterion.losses.loss_class={POSITION_LOSS}": ("dab_detr", "dino"),
    f"criterion.matcher.costs.label={POSITION_COST}": ("dab_detr", "dino", "stable_dino"),
    "criterion.matcher.candidates=2": ("dab_detr", "dino", "align_detr"),
}
CASES = [(override, project) for override, projects in ABLATIONS.items() for project in projects]


def small_config(project):
    cfg = get_config(f"projects/{project}/configs/models/{project}_r50.py").model
    changes = {**SMALL, "transformer.encoder.num_layers": 1, "transformer.decoder.num_layers": 3}
    if project == "group_detr":
        changes["queries.layout.num_groups"] = 2
    if "num_queries_one2many" in cfg and cfg.num_queries_one2many:
        changes["num_queries_one2many"] = 14
    return changed(cfg, changes)


def training_step(cfg):
    """Parameter shapes, losses and gradient norms of a training step. Every ablation must change at least one of them.

    The images differ in size and in the number of objects, so that both are padded.
    """
    model = build(cfg).train()
    torch.manual_seed(0)
    batch = [
        make_input(32, 96, [[4.0, 8, 40, 30], [50, 10, 90, 30]], [1, 4]),
        make_input(64, 32, [[4.0, 20, 20, 60]], [2]),
    ]
    losses = model(batch)
    if not model.aux_loss:  # only auxiliary losses use the heads of the layers before the last
        model.heads.requires_grad_(False)
    require_all_gradients(model, losses)
    shapes = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    trained = {name: parameter.grad for name, parameter in model.named_parameters() if parameter.requires_grad}
    gradients = {name: gradient.norm().item() for name, gradient in trained.items()}
    return shapes, {name: loss.item() for name, loss in losses.items()}, gradients


@functools.cache
def training_step_of_project(project):
    return training_step(small_config(project))


def with_override(project, override):
    cfg = OmegaConf.create({"model": small_config(project)}, flags={"allow_objects": True})
    LazyConfig.apply_overrides(cfg, [f"model.{override}"])
    validate(cfg)
    return cfg.model


@pytest.mark.parametrize("override", ABLATIONS, ids=lambda value: value.split("{")[0])
def test_an_ablation_is_one_override(override):
    build(with_override(ABLATIONS[override][0], override))


@pytest.mark.slow
@pytest.mark.parametrize(("override", "project"), CASES, ids=lambda value: value.split("{")[0])
def test_an_ablation_trains_and_has_an_effect(override, project):
    assert training_step(with_override(project, override)) != training_step_of_project(project)
