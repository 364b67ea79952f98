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
    _paper(
        "relation_detr_swin_large_12ep",
        "relation_detr_swin_large_12ep",
        12,
        57.8,
        "relation_detr_swin_l_800_1333_coco_1x.pth",
    ),
    _paper(
        "relation_detr_swin_large_24ep",
        "relation_detr_swin_large_24ep",
        24,
        58.1,
        "relation_detr_swin_l_800_1333_coco_2x.pth",
    ),
    _paper(
        "relation_detr_focalnet_large_24ep",
        "models/relation_detr_focalnet_large",
        24,
        63.5,
        "relation_detr_focalnet_large_lrf_fl4_1200_2000_o365_4e-coco_2x.pth",
        overrides=(
            "+dataloader.test.mapper.augmentation.short_edge_length=1200",
            "+dataloader.test.mapper.augmentation.max_size=2000",
        ),
        notes="after 4 epochs of Objects365; its authors' news say the AP is of test-dev2017",
    ),
)
