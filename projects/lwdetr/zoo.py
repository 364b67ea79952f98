"""Published checkpoints of LW-DETR. Each line: name, config, epochs, published box AP, file."""

from detrex_lite.zoo import Origin

_paper = Origin(
    base="https://huggingface.co/xbsu/LW-DETR/resolve/main/pretrain_weights/",
    format="lwdetr",
    licence="Apache-2.0",
    num_classes=91,
    source="https://github.com/Atten4Vis/LW-DETR",
    trained_by="the paper's authors",
    notes="trained on Objects365 before",
)

ENTRIES = (
    _paper("lwdetr_tiny_60ep", "lwdetr_tiny_60ep", 60, 42.6, "LWDETR_tiny_60e_coco.pth"),
    _paper("lwdetr_small_60ep", "lwdetr_small_60ep", 60, 48.0, "LWDETR_small_60e_coco.pth"),
    _paper("lwdetr_medium_60ep", "lwdetr_medium_60ep", 60, 52.5, "LWDETR_medium_60e_coco.pth"),
    _paper("lwdetr_large_60ep", "lwdetr_large_60ep", 60, 56.1, "LWDETR_large_60e_coco.pth"),
    _paper("lwdetr_xlarge_60ep", "lwdetr_xlarge_60ep", 60, 58.3, "LWDETR_xlarge_60e_coco.pth"),
)
