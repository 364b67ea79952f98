"""Published checkpoints of DETR. Each line: name, config, epochs, published box AP, file."""

from detrex_lite.zoo import Origin, detrex, transformers

_converted = detrex("https://github.com/IDEA-Research/detrex/tree/main/projects/detr", converted=True)
_paper = Origin(
    base="https://dl.fbaipublicfiles.com/detr/",
    format="detr",
    licence="Apache-2.0",
    num_classes=91,
    source="https://github.com/facebookresearch/detr",
    trained_by="the paper's authors",
)
_panoptic = Origin(
    base=_paper.base,
    format="detr",
    licence="Apache-2.0",
    num_classes=250,
    source="https://github.com/facebookresearch/detr",
    trained_by="the paper's authors",
)
_conditional = Origin(
    format="detr",
    licence="Apache-2.0",
    num_classes=91,
    source="https://github.com/Atten4Vis/ConditionalDETR",
    trained_by="the authors of Conditional DETR",
    notes="a baseline with a short schedule",
)
_SHAREPOINT = "https://pkueducn-my.sharepoint.com/:u:/g/personal/pkucxk_pkueducn_onmicrosoft_com/"
_hub = transformers("https://huggingface.co/facebook/detr-resnet-50", "the paper's authors; converted by transformers")

ENTRIES = (
    _converted("detr_r50_500ep", "detr_r50_500ep", 500, 42.0, "v0.1.0/converted_detr_r50_500ep.pth"),
    _converted("detr_r50_dc5_500ep", "detr_r50_dc5_500ep", 500, 43.4, "v0.3.0/converted_detr_r50_dc5.pth"),
    _converted("detr_r101_500ep", "detr_r101_500ep", 500, 43.5, "v0.1.0/converted_detr_r101_500ep.pth"),
    _converted("detr_r101_dc5_500ep", "detr_r101_dc5_500ep", 500, 44.9, "v0.3.0/converted_detr_r101_dc5.pth"),
    # The names of these files end with the beginning of their SHA-256.
    _paper("detr_r50_500ep_paper", "models/detr_r50_paper", 500, 42.0, "detr-r50-e632da11.pth", sha256="e632da11"),
    _paper(
        "detr_r50_dc5_500ep_paper",
        "models/detr_r50_dc5_paper",
        500,
        43.3,
        "detr-r50-dc5-f0fb7ef5.pth",
        sha256="f0fb7ef5",
    ),
    _paper("detr_r101_500ep_paper", "models/detr_r101_paper", 500, 43.5, "detr-r101-2c7b67e5.pth", sha256="2c7b67e5"),
    _paper(
        "detr_r101_dc5_500ep_paper",
        "models/detr_r101_dc5_paper",
        500,
        44.9,
        "detr-r101-dc5-a2e86def.pth",
        sha256="a2e86def",
    ),
    _panoptic(
        "detr_r50_panoptic_paper",
        "detr_r50_panoptic_25ep",
        None,
        38.8,
        "detr-r50-panoptic-00ce5173.pth",
        sha256="00ce5173",
        notes="PQ 43.4, mask AP 31.1",
    ),
    _panoptic(
        "detr_r50_dc5_panoptic_paper",
        "detr_r50_dc5_panoptic_25ep",
        None,
        40.2,
        "detr-r50-dc5-panoptic-da08f1b1.pth",
        sha256="da08f1b1",
        notes="PQ 44.6, mask AP 31.9",
    ),
    _panoptic(
        "detr_r101_panoptic_paper",
        "detr_r101_panoptic_25ep",
        None,
        40.1,
        "detr-r101-panoptic-40021d53.pth",
        sha256="40021d53",
        notes="PQ 45.1, mask AP 33",
    ),
    _conditional(
        "detr_r50_50ep_conditional",
        "models/detr_r50_paper",
        50,
        34.8,
        page=f"{_SHAREPOINT}EWH1OGLL4N5DufAj4ncYuigB8q62uEw6I10G-d7OD7q09A?e=vKOlb6",
    ),
    _conditional(
        "detr_r101_50ep_conditional",
        "models/detr_r101_paper",
        50,
        36.9,
        page=f"{_SHAREPOINT}EaGY26sT-zhPtMIVZxeT8iEBjiN24_LDZPXb8EGi9dBXpw?e=p6C8dB",
    ),
    _hub(
        "detr_r50_transformers",
        "models/detr_r50_paper",
        None,
        None,
        "facebook/detr-resnet-50/resolve/main/pytorch_model.bin",
    ),
)
