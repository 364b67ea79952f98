"""Published checkpoints of DETA. Each line: name, config, epochs, published box AP, file."""

from detrex_lite.zoo import Origin, detrex

_SOURCE = "https://github.com/IDEA-Research/detrex/tree/main/projects/deta"
_detrex = detrex(_SOURCE)
_converted = detrex(_SOURCE, converted=True)
_paper = Origin(
    format="deformable_detr",
    licence="Apache-2.0",
    num_classes=91,
    source="https://github.com/jozhang97/DETA",
    trained_by="the paper's authors",
)
_DRIVE = "https://drive.google.com/file/d/"

ENTRIES = (
    _detrex("deta_r50_bs8_12ep", "deta_r50_bs8_12ep", 12, 50.0, "v0.4.0/deta_r50_5scale_12ep_bs8.pth"),
    _detrex("deta_r50_12ep", "deta_r50_12ep", 12, 49.9, "v0.4.0/deta_r50_5scale_12ep_hacked_trainer.pth"),
    _detrex(
        "deta_r50_freeze_stem_12ep",
        "deta_r50_12ep",
        12,
        50.2,
        "v0.4.0/deta_r50_5scale_12ep_no_freeze_backbone.pth",
        overrides=("model.backbone.freeze_at=1",),
    ),
    _converted("deta_r50_12ep_converted", "deta_r50_12ep", 12, 50.1, "v0.3.0/converted_deta_r50_5scale_12ep.pth"),
    _converted(
        "deta_r50_improved_baseline_50ep",
        "deta_r50_improved_baseline_50ep",
        50,
        49.8,
        "v0.3.0/converted_deta_improved_deformable_baseline.pth",
    ),
    _converted(
        "deta_swin_large_384_24ep",
        "deta_swin_large_384_24ep",
        24,
        62.9,
        "v0.3.0/converted_deta_swin_o365_finetune.pth",
        notes="after Objects365",
    ),
    _paper(
        "deta_r50_12ep_paper",
        "models/deta_r50_paper",
        12,
        50.1,
        page=f"{_DRIVE}1fBQX6GAv_7OvNJaHaebwXAYrgktzeTUQ/view?usp=sharing",
    ),
    _paper(
        "deta_r50_24ep_paper",
        "models/deta_r50_paper",
        24,
        51.1,
        page=f"{_DRIVE}1XDVXNIDyUFybWvMI8diWuo-gu_7saArO/view?usp=sharing",
    ),
    _paper(
        "deta_r50_improved_baseline_50ep_paper",
        "models/deta_r50_improved_baseline",
        50,
        49.6,
        overrides=("model.heads.eps=1e-5", "model.postprocessor.num_detections=100"),
        page=f"{_DRIVE}1Xa-KPL68fx3kura6W6l8D55walXCa62m/view?usp=sharing",
    ),
    _paper(
        "deta_swin_large_384_24ep_paper",
        "deta_swin_large_384_24ep",
        24,
        62.9,
        overrides=("model.heads.eps=1e-5",),
        page="https://utexas.box.com/s/py0nnzl5fmx4bw3hx7p2ww038uyznjs0",
        notes="after Objects365; 63.5 on test-dev",
    ),
)
