"""Published checkpoints of DN-DETR. Each line: name, config, epochs, published box AP, file."""

from detrex_lite.zoo import Origin, detrex

_SOURCE = "https://github.com/IDEA-Research/detrex/tree/main/projects/dn_detr"
_detrex = detrex(_SOURCE)
_converted = detrex(_SOURCE, converted=True)
_paper = Origin(
    format="dab_detr",
    licence="Apache-2.0",
    num_classes=91,
    source="https://github.com/IDEA-Research/DN-DETR",
    trained_by="the paper's authors",
)
_DRIVE = "https://drive.google.com/drive/folders/"

ENTRIES = (
    _detrex("dn_detr_r50_50ep", "dn_detr_r50_50ep", 50, 44.7, "v0.1.0/dn_detr_r50_50ep.pth"),
    _converted("dn_detr_r50_dc5_50ep", "dn_detr_r50_dc5_50ep", 50, 46.3, "v0.3.0/converted_dn_detr_r50_dc5.pth"),
    _paper(
        "dn_detr_r50_50ep_paper",
        "models/dn_detr_r50_paper",
        50,
        44.4,
        page=f"{_DRIVE}1kuwScU8PhN61qQOl5bbiPhKAYbzDHsWs?usp=sharing",
        notes="also https://pan.baidu.com/s/1TqvnjsbAjARZp1i8cB2w8A?pwd=niet",
    ),
    _paper(
        "dn_detr_r50_dc5_50ep_paper",
        "models/dn_detr_r50_dc5_paper",
        50,
        46.3,
        page=f"{_DRIVE}1jr8BdDdMu8esABXdU3lNY7fpWVxAJtWa?usp=sharing",
        notes="also https://pan.baidu.com/s/1lWrLUkxNfrncRTM-zmpbeA?pwd=niet",
    ),
    _paper(
        "dn_detr_r50_dc5_3patterns_12ep_paper",
        "models/dn_detr_r50_dc5_3patterns_paper",
        12,
        41.7,
        page=f"{_DRIVE}1jWSIWTWgoiIvyA7w2xIkdk-B1pS2atPA?usp=sharing",
        notes="also https://pan.baidu.com/s/1fgCIGpMf0cgO6ToIb0xFuA?pwd=niet",
    ),
    _paper(
        "dn_detr_r101_dc5_3patterns_12ep_paper",
        "models/dn_detr_r101_dc5_3patterns_paper",
        12,
        42.8,
        page=f"{_DRIVE}1elPn06gs8mNxR3jtE53zi4cK5qLGH0AV?usp=sharing",
        notes="also https://pan.baidu.com/s/1fgCIGpMf0cgO6ToIb0xFuA?pwd=niet",
    ),
)
