"""Published checkpoints of Anchor DETR. Each line: name, config, epochs, published box AP, file."""

from detrex_lite.zoo import Origin, detrex

_SOURCE = "https://github.com/IDEA-Research/detrex/tree/main/projects/anchor_detr"
_detrex = detrex(_SOURCE)
_converted = detrex(_SOURCE, converted=True)
_paper = Origin(
    format="anchor_detr",
    licence="Apache-2.0",
    num_classes=91,
    source="https://github.com/megvii-research/AnchorDETR",
    trained_by="the paper's authors",
    notes="also https://pan.baidu.com/s/1iB8qtVPb9dWHYgA5z1I4xg with the code hh13",
)
_DRIVE = "https://drive.google.com/file/d/"

ENTRIES = (
    _detrex("anchor_detr_r50_50ep", "anchor_detr_r50_50ep", 50, 41.9, "v0.3.0/anchor_detr_r50_50ep.pth"),
    _converted(
        "anchor_detr_r50_50ep_converted",
        "anchor_detr_r50_50ep",
        50,
        42.2,
        "v0.3.0/converted_anchor_detr_r50_50ep.pth",
    ),
    _converted(
        "anchor_detr_r50_dc5_50ep",
        "anchor_detr_r50_dc5_50ep",
        50,
        44.2,
        "v0.3.0/converted_anchor_detr_r50_dc5_50ep.pth",
    ),
    _converted(
        "anchor_detr_r101_50ep", "anchor_detr_r101_50ep", 50, 43.5, "v0.3.0/converted_anchor_detr_r101_50ep.pth"
    ),
    _converted(
        "anchor_detr_r101_dc5_50ep",
        "anchor_detr_r101_dc5_50ep",
        50,
        45.1,
        "v0.3.0/converted_anchor_detr_r101_dc5_50ep.pth",
    ),
    _paper(
        "anchor_detr_r50_50ep_paper",
        "models/anchor_detr_r50_c5_paper",
        50,
        42.1,
        page=f"{_DRIVE}1ktLJyw4PGdaXkOn61W537Z67WHcttXDs/view?usp=sharing",
    ),
    _paper(
        "anchor_detr_r50_dc5_50ep_paper",
        "models/anchor_detr_r50_paper",
        50,
        44.3,
        page=f"{_DRIVE}1lJZWdIlHj6KKmAdU28Y01tTyO0hc6Jxs/view?usp=sharing",
    ),
    _paper(
        "anchor_detr_r101_50ep_paper",
        "models/anchor_detr_r101_c5_paper",
        50,
        43.5,
        page=f"{_DRIVE}1eBLYzlKWwSF_RRcfjgRXqIplRKetsvtg/view?usp=sharing",
    ),
    _paper(
        "anchor_detr_r101_dc5_50ep_paper",
        "models/anchor_detr_r101_paper",
        50,
        45.1,
        page=f"{_DRIVE}1irmZPSALME4Nht3_qhM9WLExDyO9Sj-J/view?usp=sharing",
    ),
)
