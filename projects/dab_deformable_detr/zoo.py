"""Published checkpoints of DAB-Deformable-DETR. Each line: name, config, epochs, published box AP, file."""

from detrex_lite.zoo import Origin, detrex

_detrex = detrex("https://github.com/IDEA-Research/detrex/tree/main/projects/dab_deformable_detr")
_paper = Origin(
    format="deformable_detr",
    licence="Apache-2.0",
    num_classes=91,
    source="https://github.com/IDEA-Research/DAB-DETR",
    trained_by="the paper's authors",
    page="https://drive.google.com/drive/folders/1uP9N0HIBPB6OPxLq5aqeIfKNOFFYQl2t?usp=sharing",
    notes="v2, which has other weights of losses; also https://cloud.tsinghua.edu.cn/d/3aa9d0da60e8423dab54/",
)

ENTRIES = (
    _detrex(
        "dab_deformable_detr_r50_50ep",
        "dab_deformable_detr_r50_50ep",
        50,
        49.0,
        "v0.2.0/dab_deformable_detr_r50_50ep_49AP.pth",
    ),
    _detrex(
        "dab_deformable_detr_r50_two_stage_50ep",
        "dab_deformable_detr_r50_two_stage_50ep",
        50,
        49.7,
        "v0.2.0/dab_deformable_detr_r50_two_stage_49_7AP.pth",
    ),
    _paper("dab_deformable_detr_r50_50ep_paper", "models/dab_deformable_detr_r50_paper", 50, 48.7),
)
