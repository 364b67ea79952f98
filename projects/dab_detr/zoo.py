"""Published checkpoints of DAB-DETR. Each line: name, config, epochs, published box AP, file.

detrex prints one address for DETR-R101-DC5 and for DAB-DETR-R101-DC5 (45.7); by its name the file is DETR's.
"""

from detrex_lite.zoo import Origin, detrex, transformers

_SOURCE = "https://github.com/IDEA-Research/detrex/tree/main/projects/dab_detr"
_detrex = detrex(_SOURCE)
_converted = detrex(_SOURCE, converted=True)
_paper = Origin(
    format="dab_detr",
    licence="Apache-2.0",
    num_classes=91,
    source="https://github.com/IDEA-Research/DAB-DETR",
    trained_by="the paper's authors",
    page="https://drive.google.com/drive/folders/1ByfbyCZL8o6zOKqH6dQFCsVQ8dgRXfUU?usp=sharing",
    notes="one folder holds all models; also https://cloud.tsinghua.edu.cn/d/3aa9d0da60e8423dab54/",
)
_hub = transformers(
    "https://huggingface.co/IDEA-Research/dab-detr-resnet-50", "the paper's authors; converted by transformers"
)
_3_PATTERNS = ("model.num_patterns=3",)

ENTRIES = (
    _detrex("dab_detr_r50_50ep", "dab_detr_r50_50ep", 50, 43.3, "v0.1.0/dab_detr_r50_50ep.pth"),
    _detrex("dab_detr_r101_50ep", "dab_detr_r101_50ep", 50, 44.0, "v0.1.0/dab_detr_r101_50ep.pth"),
    _detrex(
        "dab_detr_swin_tiny_224_50ep", "models/dab_detr_swin_tiny_224", 50, 45.2, "v0.1.0/dab_detr_swin_t_in1k_50ep.pth"
    ),
    _converted(
        "dab_detr_r50_3patterns_50ep",
        "dab_detr_r50_3patterns_50ep",
        50,
        42.8,
        "v0.3.0/converted_dab_detr_r50_3patterns.pth",
    ),
    _converted("dab_detr_r50_dc5_50ep", "dab_detr_r50_dc5_50ep", 50, 44.6, "v0.3.0/converted_dab_detr_r50_dc5.pth"),
    _converted(
        "dab_detr_r50_dc5_3patterns_50ep",
        "dab_detr_r50_dc5_3patterns_50ep",
        50,
        45.7,
        "v0.3.0/converted_dab_detr_r50_dc5_3patterns.pth",
    ),
    _paper(
        "dab_detr_r50_50ep_paper",
        "models/dab_detr_r50_paper",
        50,
        42.2,
        page="https://drive.google.com/drive/folders/1pae4Yxi0H9OOFdXZg3zXuKK9yOznhTNU?usp=sharing",
    ),
    _paper("dab_detr_r50_3patterns_paper", "models/dab_detr_r50_paper", None, 42.6, overrides=_3_PATTERNS),
    _paper("dab_detr_r50_dc5_paper", "models/dab_detr_r50_dc5_paper", None, 44.5),
    _paper(
        "dab_detr_r50_dc5_fixxy_paper",
        "models/dab_detr_r50_dc5_paper",
        None,
        44.7,
        overrides=("model.queries.centers=random",),
    ),
    _paper("dab_detr_r50_dc5_3patterns_paper", "models/dab_detr_r50_dc5_paper", None, 45.7, overrides=_3_PATTERNS),
    _hub(
        "dab_detr_r50_transformers",
        "models/dab_detr_r50_paper",
        None,
        None,
        "IDEA-Research/dab-detr-resnet-50/resolve/main/model.safetensors",
    ),
)
