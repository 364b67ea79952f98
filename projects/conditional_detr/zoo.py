"""Published checkpoints of Conditional DETR. Each line: name, config, epochs, published box AP, file."""

from detrex_lite.zoo import Origin, detrex, transformers

_SOURCE = "https://github.com/IDEA-Research/detrex/tree/main/projects/conditional_detr"
_detrex = detrex(_SOURCE)
_converted = detrex(_SOURCE, converted=True)
_paper = Origin(
    format="conditional_detr",
    licence="Apache-2.0",
    num_classes=91,
    source="https://github.com/Atten4Vis/ConditionalDETR",
    trained_by="the paper's authors",
)
_SHAREPOINT = "https://pkueducn-my.sharepoint.com/:u:/g/personal/pkucxk_pkueducn_onmicrosoft_com/"
_hub = transformers(
    "https://huggingface.co/microsoft/conditional-detr-resnet-50", "the paper's authors; converted by transformers"
)

ENTRIES = (
    _detrex("conditional_detr_r50_50ep", "conditional_detr_r50_50ep", 50, 41.6, "v0.1.0/conditional_detr_r50_50ep.pth"),
    _converted(
        "conditional_detr_r50_50ep_converted",
        "conditional_detr_r50_50ep",
        50,
        41.0,
        "v0.1.0/converted_conditional_detr_r50_50ep.pth",
    ),
    _converted(
        "conditional_detr_r50_dc5_50ep",
        "conditional_detr_r50_dc5_50ep",
        50,
        43.8,
        "v0.3.0/converted_conditional_detr_r50_dc5.pth",
    ),
    _converted(
        "conditional_detr_r101_50ep",
        "conditional_detr_r101_50ep",
        50,
        43.0,
        "v0.1.0/converted_conditional_detr_r101_50ep.pth",
    ),
    _converted(
        "conditional_detr_r101_dc5_50ep",
        "conditional_detr_r101_dc5_50ep",
        50,
        45.1,
        "v0.3.0/converted_conditional_detr_r101_dc5.pth",
    ),
    _paper(
        "conditional_detr_r50_50ep_paper",
        "models/conditional_detr_r50_paper",
        50,
        41.0,
        page=f"{_SHAREPOINT}EXaUwp6Qt29Mub0bVOExLusBlyqqyO7qCIQfVWclbOGulw?e=ILR0sI",
    ),
    _paper(
        "conditional_detr_r50_dc5_50ep_paper",
        "models/conditional_detr_r50_dc5_paper",
        50,
        43.7,
        page=f"{_SHAREPOINT}EWq9mdPp7fdCgpW9M_40xEYBiOuTyIJdzbaTAxQZ7URPQw?e=cZzb6O",
    ),
    _paper(
        "conditional_detr_r101_50ep_paper",
        "models/conditional_detr_r101_paper",
        50,
        42.8,
        page=f"{_SHAREPOINT}EXTH01VuhzNEn9W_5Zg_dsEBkutCNBOoZYhV1ew7UVwo8Q?e=0cYF8t",
    ),
    _paper(
        "conditional_detr_r101_dc5_50ep_paper",
        "models/conditional_detr_r101_dc5_paper",
        50,
        45.0,
        page=f"{_SHAREPOINT}EbwdBQK26Q5Ev535hVKcv0wB2TJerrBieD3Fk3xGBSPa9Q?e=wKdIsm",
    ),
    _hub(
        "conditional_detr_r50_transformers",
        "models/conditional_detr_r50_paper",
        None,
        None,
        "microsoft/conditional-detr-resnet-50/resolve/main/pytorch_model.bin",
    ),
)
