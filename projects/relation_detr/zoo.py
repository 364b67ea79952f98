"""Published checkpoints of Relation-DETR. Each line: name, config, epochs, published box AP, file."""

from detrex_lite.zoo import Origin

_paper = Origin(
    base="https://github.com/xiuqhou/Relation-DETR/releases/download/v1.0.0/",
    format="relation_detr",
    licence="Apache-2.0",
    num_classes=91,
    source="https://github.com/xiuqhou/Relation-DETR",
    trained_by="the paper's authors",
)

ENTRIES = (
    _paper(
        "relation_detr_r50_12ep",
        "relation_detr_r50_12ep",
        12,
        51.7,
        "relation_detr_resnet50_800_1333_coco_1x.pth",
    ),
    _paper(
        "relation_detr_r50_24ep",
        "relation_detr_r50_24ep",
        24,
        52.1,
        "relation_detr_resnet50_800_1333_coco_2x.pth",
    ),
)
