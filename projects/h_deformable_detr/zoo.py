"""Published checkpoints of H-Deformable DETR. Each line: name, config, epochs, published box AP, file."""

from detrex_lite.zoo import Origin, detrex

_SOURCE = "https://github.com/IDEA-Research/detrex/tree/main/projects/h_deformable_detr"
_detrex = detrex(_SOURCE)
_converted = detrex(_SOURCE, converted=True)
_paper = Origin(
    base="https://github.com/HDETR/H-Deformable-DETR/releases/download/v0.1/",
    format="deformable_detr",
    licence="MIT",
    num_classes=91,
    source="https://github.com/HDETR/H-Deformable-DETR",
    trained_by="the paper's authors",
)


def _file(backbone: str, epochs: int, queries: str = "") -> str:
    """The files of both publishers have these names."""
    detector = "deformable_detr_plus_iterative_bbox_refinement_plus_plus_two_stage"
    return f"{backbone}_hybrid_branch_lambda1_group6_t1500{queries}_dp0_mqs_lft_{detector}_{epochs}eps.pth"


_R50, _SWIN_T, _SWIN_L = (
    f"models/h_deformable_detr_{backbone}_paper" for backbone in ("r50", "swin_tiny_224", "swin_large_224")
)
_DROP_PATH = "model.backbone.drop_path_rate=0.5"
_900 = "model.num_queries=900"

ENTRIES = (
    _detrex(
        "h_deformable_detr_r50_12ep",
        "h_deformable_detr_r50_two_stage_12ep",
        12,
        49.1,
        "v0.4.0/h_deformable_detr_r50_two_stage_12ep_modified_train_net.pth",
    ),
    _converted(
        "h_deformable_detr_r50_12ep_converted",
        "h_deformable_detr_r50_two_stage_12ep",
        12,
        48.9,
        f"v0.2.0/{_file('r50', 12)}",
    ),
    _converted(
        "h_deformable_detr_r50_36ep", "h_deformable_detr_r50_two_stage_36ep", 36, 50.3, f"v0.2.0/{_file('r50', 36)}"
    ),
    _converted(
        "h_deformable_detr_swin_tiny_224_12ep",
        "models/h_deformable_detr_swin_tiny_224",
        12,
        50.6,
        f"v0.2.0/{_file('swin_tiny', 12)}",
    ),
    _converted(
        "h_deformable_detr_swin_tiny_224_36ep",
        "models/h_deformable_detr_swin_tiny_224",
        36,
        53.5,
        f"v0.2.0/{_file('swin_tiny', 36)}",
    ),
    _converted(
        "h_deformable_detr_swin_large_224_12ep",
        "models/h_deformable_detr_swin_large_224",
        12,
        56.2,
        f"v0.2.0/{_file('swin_large', 12)}",
    ),
    _converted(
        "h_deformable_detr_swin_large_224_36ep",
        "models/h_deformable_detr_swin_large_224",
        36,
        57.5,
        f"v0.2.0/{_file('drop_path0.5_swin_large', 36)}",
        overrides=(_DROP_PATH,),
    ),
    _converted(
        "h_deformable_detr_swin_large_224_900queries_12ep",
        "models/h_deformable_detr_swin_large_224",
        12,
        56.4,
        f"v0.2.0/{_file('swin_large', 12, '_n900')}",
        overrides=(_900,),
    ),
    _converted(
        "h_deformable_detr_swin_large_224_900queries_36ep",
        "models/h_deformable_detr_swin_large_224",
        36,
        57.7,
        f"v0.2.0/{_file('drop_path0.5_swin_large', 36, '_n900')}",
        overrides=(_900, _DROP_PATH),
        notes="box AP 57.7 by the project's page, 57.5 by detrex's model zoo",
    ),
    _paper("h_deformable_detr_r50_12ep_paper", _R50, 12, 48.7, _file("r50", 12)),
    _paper("h_deformable_detr_r50_36ep_paper", _R50, 36, 50.0, _file("r50", 36)),
    _paper("h_deformable_detr_swin_tiny_224_12ep_paper", _SWIN_T, 12, 50.6, _file("swin_tiny", 12)),
    _paper("h_deformable_detr_swin_tiny_224_36ep_paper", _SWIN_T, 36, 53.2, _file("swin_tiny", 36)),
    _paper("h_deformable_detr_swin_large_224_12ep_paper", _SWIN_L, 12, 55.9, _file("swin_large", 12)),
    _paper(
        "h_deformable_detr_swin_large_224_36ep_paper",
        _SWIN_L,
        36,
        57.1,
        _file("drop_path0.5_swin_large", 36),
        overrides=(_DROP_PATH,),
    ),
    _paper(
        "h_deformable_detr_swin_large_224_900queries_12ep_paper",
        _SWIN_L,
        12,
        56.1,
        _file("swin_large", 12, "_n900"),
        overrides=(_900,),
    ),
    _paper(
        "h_deformable_detr_swin_large_224_900queries_36ep_paper",
        _SWIN_L,
        36,
        57.4,
        _file("drop_path0.5_swin_large", 36, "_n900"),
        overrides=(_900, _DROP_PATH),
        notes="57.6 with model.postprocessor.num_detections=300",
    ),
    _paper(
        "h_deformable_detr_swin_tiny_224_decay_12ep_paper",
        _SWIN_T,
        12,
        51.2,
        _file("decay0.05_swin_tiny", 12),
        notes="weight decay 0.05",
    ),
    _paper(
        "h_deformable_detr_swin_tiny_224_decay_36ep_paper",
        _SWIN_T,
        36,
        53.7,
        _file("decay0.05_swin_tiny", 36),
        notes="weight decay 0.05",
    ),
    _paper(
        "h_deformable_detr_swin_large_224_900queries_decay_36ep_paper",
        _SWIN_L,
        36,
        57.8,
        _file("decay0.05_drop_path0.5_swin_large", 36, "_n900"),
        overrides=(_900, _DROP_PATH),
        notes="weight decay 0.05; 57.9 with model.postprocessor.num_detections=300",
    ),
)
