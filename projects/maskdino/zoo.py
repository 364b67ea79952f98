"""Published checkpoints of Mask DINO. Each line: name, config, epochs, published box AP, file."""

from detrex_lite.zoo import Origin

_paper = Origin(
    base="https://github.com/IDEA-Research/detrex-storage/releases/download/maskdino-v0.1.0/",
    format="maskdino",
    licence="Apache-2.0",
    num_classes=80,
    source="https://github.com/IDEA-Research/MaskDINO",
    trained_by="the paper's authors",
)
_panoptic = Origin(
    base=_paper.base,
    format="maskdino",
    licence="Apache-2.0",
    num_classes=133,
    source=_paper.source,
    trained_by="the paper's authors",
)

ENTRIES = (
    _paper(
        "maskdino_r50_50ep",
        "maskdino_r50_instance_50ep",
        50,
        51.7,
        "maskdino_r50_50ep_300q_hid2048_3sd1_instance_maskenhanced_mask46.3ap_box51.7ap.pth",
        notes="mask AP 46.3",
    ),
    _panoptic(
        "maskdino_r50_panoptic_50ep",
        "maskdino_r50_panoptic_50ep",
        50,
        44.3,
        "maskdino_r50_50ep_300q_hid2048_3sd1_panoptic_pq53.0.pth",
        notes="PQ 53.0, mask AP 48.8 as printed; mask and box AP look swapped",
    ),
    _paper(
        "maskdino_swin_large_50ep_no_mask_boxes",
        "maskdino_swin_large_384_instance_50ep",
        50,
        58.3,
        "maskdino_swinl_50ep_300q_hid2048_3sd1_instance_mask52.1ap_box58.3ap.pth",
        overrides=("model.queries.mask_boxes=False",),
        notes="mask AP 52.1",
    ),
    _paper(
        "maskdino_swin_large_50ep",
        "maskdino_swin_large_384_instance_50ep",
        50,
        59.0,
        "maskdino_swinl_50ep_300q_hid2048_3sd1_instance_maskenhanced_mask52.3ap_box59.0ap.pth",
        notes="mask AP 52.3",
    ),
    _panoptic(
        "maskdino_swin_large_panoptic_50ep",
        "maskdino_swin_large_384_panoptic_50ep",
        50,
        56.2,
        "maskdino_swinl_50ep_300q_hid2048_3sd1_panoptic_58.3pq.pth",
        notes="PQ 58.3, mask AP 50.6 as printed; mask and box AP look swapped",
    ),
)
