"""Published checkpoints of Deformable DETR. Each line: name, config, epochs, published box AP, file."""

from detrex_lite.zoo import Origin, detrex, transformers

_SOURCE = "https://github.com/IDEA-Research/detrex/tree/main/projects/deformable_detr"
_detrex = detrex(_SOURCE)
_converted = detrex(_SOURCE, converted=True)
_paper = Origin(
    format="deformable_detr",
    licence="Apache-2.0",
    num_classes=91,
    source="https://github.com/fundamentalvision/Deformable-DETR",
    trained_by="the paper's authors",
)
_DRIVE = "https://drive.google.com/file/d/"
_hdetr = Origin(
    base="https://github.com/HDETR/H-Deformable-DETR/releases/download/v0.1/",
    format="deformable_detr",
    licence="MIT",
    num_classes=91,
    source="https://github.com/HDETR/H-Deformable-DETR",
    trained_by="the authors of H-Deformable DETR",
)
_FILE = "deformable_detr_plus_iterative_bbox_refinement_plus_plus_two_stage"
_hub = transformers(
    "https://huggingface.co/SenseTime/deformable-detr", "the paper's authors; converted by transformers"
)

_SINGLE_SCALE = ("model.backbone.out_features=[res5]", "model.transformer.num_feature_levels=1")
_REFINED = ("model.with_box_refine=True",)
_TWO_STAGE = (*_REFINED, "model.as_two_stage=True")
# Of the authors of H-Deformable DETR: a wider FFN, and as "tricks" no dropout, mixed selection, looking forward twice.
_BASELINE = (*_TWO_STAGE, "model.transformer.encoder.layer.ffn.feedforward_dim=2048")
_TRICKS = (
    *_BASELINE,
    "model.transformer.encoder.layer.attn.dropout=0.0",
    "model.queries.mixed_selection=True",
    "model.heads.look_forward_twice=True",
)
_DROP_PATH = "model.backbone.drop_path_rate=0.5"
_R50 = "models/deformable_detr_r50_paper"
_SWIN_T = "models/deformable_detr_swin_tiny_224_paper"
_SWIN_L = "models/deformable_detr_swin_large_224_paper"

ENTRIES = (
    _detrex(
        "deformable_detr_r50_50ep",
        "deformable_detr_r50_50ep",
        50,
        44.9,
        "v0.4.0/deformable_detr_r50_50ep_backbone_1e-5_class_weight_2.0.pth",
    ),
    _detrex(
        "deformable_detr_r50_refine_50ep",
        "deformable_detr_r50_refine_50ep",
        50,
        47.0,
        "v0.1.1/deformable_detr_with_box_refinement_50ep_new.pth",
    ),
    _detrex(
        "deformable_detr_r50_two_stage_50ep",
        "deformable_detr_r50_two_stage_50ep",
        50,
        48.2,
        "v0.1.1/deformable_detr_r50_two_stage_50ep_new.pth",
    ),
    _converted(
        "deformable_detr_r50_50ep_converted",
        "deformable_detr_r50_50ep",
        50,
        44.59,
        "v0.1.0/converted_deformable_detr_r50.pth",
    ),
    _converted(
        "deformable_detr_r50_refine_50ep_converted",
        "deformable_detr_r50_refine_50ep",
        50,
        46.28,
        "v0.1.0/converted_deformable_detr_r50_with_box_refine_50ep.pth",
    ),
    _converted(
        "deformable_detr_r50_two_stage_50ep_converted",
        "deformable_detr_r50_two_stage_50ep",
        50,
        47.09,
        "v0.1.0/converted_deformable_detr_two_stage_50ep.pth",
    ),
    _paper(
        "deformable_detr_r50_single_scale_50ep_paper",
        _R50,
        50,
        39.4,
        overrides=_SINGLE_SCALE,
        page=f"{_DRIVE}1WEjQ9_FgfI5sw5OZZ4ix-OKk-IJ_-SDU/view?usp=sharing",
    ),
    _paper(
        "deformable_detr_r50_single_scale_dc5_50ep_paper",
        _R50,
        50,
        41.5,
        overrides=(*_SINGLE_SCALE, "model.backbone.dilation=True"),
        page=f"{_DRIVE}1m_TgMjzH7D44fbA-c_jiBZ-xf-odxGdk/view?usp=sharing",
    ),
    _paper(
        "deformable_detr_r50_50ep_paper",
        _R50,
        50,
        44.5,
        page=f"{_DRIVE}1nDWZWHuRwtwGden77NLM9JoWe-YisJnA/view?usp=sharing",
    ),
    _paper(
        "deformable_detr_r50_refine_50ep_paper",
        _R50,
        50,
        46.2,
        overrides=_REFINED,
        page=f"{_DRIVE}1JYKyRYzUH7uo9eVfDaVCiaIGZb5YTCuI/view?usp=sharing",
    ),
    _paper(
        "deformable_detr_r50_two_stage_50ep_paper",
        _R50,
        50,
        46.9,
        overrides=_TWO_STAGE,
        page=f"{_DRIVE}15I03A7hNTpwuLNdfuEmW9_taZMNVssEp/view?usp=sharing",
    ),
    _hdetr("deformable_detr_r50_two_stage_12ep_hdetr", _R50, 12, 43.7, f"r50_{_FILE}_12eps.pth", overrides=_BASELINE),
    _hdetr("deformable_detr_r50_two_stage_36ep_hdetr", _R50, 36, 46.8, f"r50_{_FILE}_36eps.pth", overrides=_BASELINE),
    _hdetr(
        "deformable_detr_r50_tricks_12ep_hdetr", _R50, 12, 47.0, f"r50_dp0_mqs_lft_{_FILE}_12eps.pth", overrides=_TRICKS
    ),
    _hdetr(
        "deformable_detr_r50_tricks_36ep_hdetr", _R50, 36, 49.0, f"r50_dp0_mqs_lft_{_FILE}_36eps.pth", overrides=_TRICKS
    ),
    _hdetr(
        "deformable_detr_swin_tiny_224_two_stage_12ep_hdetr",
        _SWIN_T,
        12,
        45.3,
        f"swin_tiny_{_FILE}_12eps.pth",
        overrides=_BASELINE,
    ),
    _hdetr(
        "deformable_detr_swin_tiny_224_two_stage_12ep_hdetr_2",
        _SWIN_T,
        12,
        46.0,
        f"swin_tiny_{_FILE}_12eps_2.pth",
        overrides=_BASELINE,
    ),
    _hdetr(
        "deformable_detr_swin_tiny_224_two_stage_36ep_hdetr",
        _SWIN_T,
        36,
        49.0,
        f"swin_tiny_{_FILE}_36eps.pth",
        overrides=_BASELINE,
    ),
    _hdetr(
        "deformable_detr_swin_tiny_224_two_stage_36ep_hdetr_2",
        _SWIN_T,
        36,
        49.6,
        f"swin_tiny_{_FILE}_36eps_2.pth",
        overrides=_BASELINE,
    ),
    _hdetr(
        "deformable_detr_swin_tiny_224_tricks_12ep_hdetr",
        _SWIN_T,
        12,
        49.3,
        f"swin_tiny_dp0_mqs_lft_{_FILE}_12eps.pth",
        overrides=_TRICKS,
    ),
    _hdetr(
        "deformable_detr_swin_tiny_224_tricks_36ep_hdetr",
        _SWIN_T,
        36,
        51.8,
        f"swin_tiny_dp0_mqs_lft_{_FILE}_36eps.pth",
        overrides=_TRICKS,
    ),
    _hdetr(
        "deformable_detr_swin_large_224_two_stage_12ep_hdetr",
        _SWIN_L,
        12,
        51.0,
        f"swin_large_{_FILE}_12eps.pth",
        overrides=_BASELINE,
    ),
    _hdetr(
        "deformable_detr_swin_large_224_two_stage_36ep_hdetr",
        _SWIN_L,
        36,
        53.7,
        f"drop_path0.5_swin_large_{_FILE}_36eps.pth",
        overrides=(*_BASELINE, _DROP_PATH),
    ),
    _hdetr(
        "deformable_detr_swin_large_224_tricks_12ep_hdetr",
        _SWIN_L,
        12,
        54.5,
        f"swin_large_dp0_mqs_lft_{_FILE}_12eps.pth",
        overrides=_TRICKS,
    ),
    _hdetr(
        "deformable_detr_swin_large_224_tricks_36ep_hdetr",
        _SWIN_L,
        36,
        56.3,
        f"drop_path0.5_swin_large_dp0_mqs_lft_{_FILE}_36eps.pth",
        overrides=(*_TRICKS, _DROP_PATH),
    ),
    _hub(
        "deformable_detr_r50_transformers", _R50, None, None, "SenseTime/deformable-detr/resolve/main/pytorch_model.bin"
    ),
)
