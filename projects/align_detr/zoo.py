"""Published checkpoints of Align-DETR. Each line: name, config, epochs, published box AP, page of the file."""

from detrex_lite.zoo import Origin

_paper = Origin(
    format="detrex",
    licence="Apache-2.0",
    num_classes=80,
    source="https://github.com/FelixCaae/AlignDETR",
    trained_by="the paper's authors",
)
_DRIVE = "https://drive.google.com/file/d/"
_IN_DETREX = "detrex lists the same file"
_LATER_LOSS = "trained with a later form of the loss, with a focal term"

ENTRIES = (
    _paper(
        "align_detr_r50_4scale_12ep",
        "align_detr_r50_4scale_12ep",
        12,
        50.3,
        page=f"{_DRIVE}12xSxD_Z9KI8bejSlO1td1XcZ-Ns00rTi/view?usp=share_link",
        notes=_IN_DETREX,
    ),
    _paper(
        "align_detr_r50_4scale_24ep",
        "align_detr_r50_4scale_24ep",
        24,
        51.4,
        page=f"{_DRIVE}1zQYe78fDdCmK3nwbAWYLvGCdQCFsTqoX/view?usp=share_link",
        notes=_IN_DETREX,
    ),
    _paper(
        "align_detr_r50_4scale_12ep_later_loss",
        "align_detr_r50_4scale_12ep",
        12,
        50.5,
        page=f"{_DRIVE}1QLhyRuxCtmQjHXDeNtjBRA4YVL5ldHfI/view?usp=sharing",
        notes=_LATER_LOSS,
    ),
    _paper(
        "align_detr_r50_4scale_24ep_later_loss",
        "align_detr_r50_4scale_24ep",
        24,
        51.7,
        page=f"{_DRIVE}1RybGz8jDwxGFsqorl-u9z_sPNQirGlYQ/view?usp=sharing",
        notes=_LATER_LOSS,
    ),
)
