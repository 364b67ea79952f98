"""The published checkpoint of SQR-DAB-DETR: name, config, epochs, published box AP."""

from detrex_lite.zoo import detrex

_detrex = detrex("https://github.com/IDEA-Research/detrex/tree/main/projects/sqr_detr")

ENTRIES = (
    _detrex(
        "sqr_dab_detr_r50_50ep",
        "sqr_dab_detr_r50_50ep",
        50,
        44.4,
        page="https://drive.google.com/file/d/1Zz298GPYvDfF1RjSTk1e_ZoBy3NtXxWd/view",
    ),
)
