"""Published checkpoints of DN-Deformable-DETR. Each line: name, config, epochs, published box AP, file.

The paper's repository also has models with deformable attention in the encoder alone, which are another detector.
"""

from detrex_lite.zoo import Origin, detrex

_converted = detrex("https://github.com/IDEA-Research/detrex/tree/main/projects/dn_deformable_detr", converted=True)
_paper = Origin(
    format="deformable_detr",
    licence="Apache-2.0",
    num_classes=91,
    source="https://github.com/IDEA-Research/DN-DETR",
    trained_by="the paper's authors",
    page="https://drive.google.com/drive/folders/1pIllR0VfSIqX8TmQy0PFNiPdp87j-78j?usp=sharing",
    notes="v2; 48.4 after 24 epochs; also https://pan.baidu.com/s/1ugoXlpr3x72qcXPKQ669sA?pwd=niet",
)

ENTRIES = (
    _converted(
        "dn_deformable_detr_r50_50ep",
        "dn_deformable_detr_r50_50ep",
        50,
        49.5,
        "v0.1.0/converted_dn_deformable_detr_r50_50ep.pth",
    ),
    _paper("dn_deformable_detr_r50_50ep_paper", "models/dn_deformable_detr_r50_paper", 50, 49.5),
)
