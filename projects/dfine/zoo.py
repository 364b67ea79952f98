"""Published checkpoints of D-FINE. Each line: name, config, epochs, published box AP, file."""

from detrex_lite.zoo import Origin

_dfine = Origin(
    base="https://github.com/Peterande/storage/releases/download/dfinev1.0/",
    format="dfine",
    licence="Apache-2.0",
    num_classes=80,
    source="https://github.com/Peterande/D-FINE",
    trained_by="the paper's authors",
)
_AFTER_OBJECTS365 = "trained on Objects365 before"

ENTRIES = (
    _dfine("dfine_n", "dfine_n_160ep", 160, 42.8, "dfine_n_coco.pth"),
    _dfine("dfine_s", "dfine_s_132ep", 132, 48.5, "dfine_s_coco.pth"),
    _dfine("dfine_m", "dfine_m_132ep", 132, 52.3, "dfine_m_coco.pth"),
    _dfine("dfine_l", "dfine_l_80ep", 80, 54.0, "dfine_l_coco.pth"),
    _dfine("dfine_x", "dfine_x_80ep", 80, 55.8, "dfine_x_coco.pth"),
    _dfine("dfine_s_obj365", "dfine_s_132ep", 64, 50.7, "dfine_s_obj2coco.pth", notes=_AFTER_OBJECTS365),
    _dfine("dfine_m_obj365", "dfine_m_132ep", 56, 55.1, "dfine_m_obj2coco.pth", notes=_AFTER_OBJECTS365),
    _dfine("dfine_l_obj365", "dfine_l_80ep", 36, 57.3, "dfine_l_obj2coco_e25.pth", notes=_AFTER_OBJECTS365),
    _dfine("dfine_x_obj365", "dfine_x_80ep", 36, 59.3, "dfine_x_obj2coco.pth", notes=_AFTER_OBJECTS365),
)
