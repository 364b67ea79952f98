"""Published checkpoints of DEIM. Each line: name, config, epochs, published box AP, file."""

import dataclasses

from detrex_lite.zoo import Origin

_deim = Origin(
    format="dfine",
    licence="Apache-2.0",
    num_classes=80,
    source="https://github.com/ShihuaHuang95/DEIM",
    trained_by="the paper's authors",
    page="https://github.com/ShihuaHuang95/DEIM",
)
_rt = dataclasses.replace(_deim, format="rtdetrv2")


def _page(number: str) -> str:
    """A file of Google Drive."""
    return f"https://drive.google.com/file/d/{number}/view"


ENTRIES = (
    _deim("deim_dfine_n", "deim_dfine_n_160ep", 160, 43.0, page=_page("1ZPEhiU9nhW4M5jLnYOFwTSLQC1Ugf62e")),
    _deim("deim_dfine_s", "deim_dfine_s_132ep", 132, 49.0, page=_page("1tB8gVJNrfb6dhFvoHJECKOF5VpkthhfC")),
    _deim("deim_dfine_m", "deim_dfine_m_102ep", 102, 52.7, page=_page("18Lj2a6UN6k_n_UzqnJyiaiLGpDzQQit8")),
    _deim("deim_dfine_l", "deim_dfine_l_58ep", 58, 54.7, page=_page("1PIRf02XkrA2xAD3wEiKE2FaamZgSGTAr")),
    _deim("deim_dfine_x", "deim_dfine_x_58ep", 58, 56.5, page=_page("1dPtbgtGgq1Oa7k_LgH1GXPelg1IVeu0j")),
    _rt("deim_rtdetrv2_r18", "deim_rtdetrv2_r18_120ep", 120, 49.0, page=_page("153_JKff6EpFgiLKaqkJsoDcLal_0ux_F")),
    _rt("deim_rtdetrv2_r34", "deim_rtdetrv2_r34_120ep", 120, 50.9, page=_page("1O9RjZF6kdFWGv1Etn1Toml4r-YfdMDMM")),
    _rt("deim_rtdetrv2_r50_m", "deim_rtdetrv2_r50_m_60ep", 60, 53.2, page=_page("10dLuqdBZ6H5ip9BbBiE6S7ZcmHkRbD0E")),
    _rt("deim_rtdetrv2_r50", "deim_rtdetrv2_r50_60ep", 60, 54.3, page=_page("1mWknAXD5JYknUQ94WCEvPfXz13jcNOTI")),
    _rt("deim_rtdetrv2_r101", "deim_rtdetrv2_r101_60ep", 60, 55.5, page=_page("1BIevZijOcBO17llTyDX32F_pYppBfnzu")),
)
