"""Published checkpoints of RT-DETR and RT-DETRv2. Each line: name, config, epochs, published box AP, file."""

import dataclasses

from detrex_lite.zoo import Origin

_v1 = Origin(
    base="https://github.com/lyuwenyu/storage/releases/download/",
    format="rtdetr",
    licence="Apache-2.0",
    num_classes=80,
    source="https://github.com/lyuwenyu/RT-DETR/tree/main/rtdetr_pytorch",
    trained_by="the paper's authors; converted from PaddlePaddle",
)
_v2 = dataclasses.replace(
    _v1,
    format="rtdetrv2",
    source="https://github.com/lyuwenyu/RT-DETR/tree/main/rtdetrv2_pytorch",
    trained_by="the paper's authors",
)
_OBJECTS365 = "trained on Objects365 before COCO"


def _points(number: int) -> tuple[str, ...]:
    return (f"model.transformer.decoder.layer.attn[1].num_points=[{number},{number},{number}]",)


ENTRIES = (
    _v1("rtdetr_r18_72ep", "rtdetr_r18_72ep", 72, 46.4, "v0.1/rtdetr_r18vd_dec3_6x_coco_from_paddle.pth"),
    _v1("rtdetr_r34_72ep", "rtdetr_r34_72ep", 72, 48.9, "v0.1/rtdetr_r34vd_dec4_6x_coco_from_paddle.pth"),
    _v1("rtdetr_r50_m_72ep", "rtdetr_r50_m_72ep", 72, 51.3, "v0.1/rtdetr_r50vd_m_6x_coco_from_paddle.pth"),
    _v1("rtdetr_r50_72ep", "rtdetr_r50_72ep", 72, 53.1, "v0.1/rtdetr_r50vd_6x_coco_from_paddle.pth"),
    _v1("rtdetr_r101_72ep", "rtdetr_r101_72ep", 72, 54.3, "v0.1/rtdetr_r101vd_6x_coco_from_paddle.pth"),
    _v1(
        "rtdetr_r18_objects365",
        "rtdetr_r18_72ep",
        None,
        49.0,
        "v0.1/rtdetr_r18vd_5x_coco_objects365_from_paddle.pth",
        notes=_OBJECTS365,
    ),
    _v1(
        "rtdetr_r50_objects365",
        "rtdetr_r50_72ep",
        None,
        55.2,
        "v0.1/rtdetr_r50vd_2x_coco_objects365_from_paddle.pth",
        notes=_OBJECTS365,
    ),
    _v1(
        "rtdetr_r101_objects365",
        "rtdetr_r101_72ep",
        None,
        56.2,
        "v0.1/rtdetr_r101vd_2x_coco_objects365_from_paddle.pth",
        notes=_OBJECTS365,
    ),
    _v2("rtdetrv2_r18_120ep", "rtdetrv2_r18_120ep", 120, 48.1, "v0.2/rtdetrv2_r18vd_120e_coco_rerun_48.1.pth"),
    _v2("rtdetrv2_r34_120ep", "rtdetrv2_r34_120ep", 120, 49.9, "v0.1/rtdetrv2_r34vd_120e_coco_ema.pth"),
    _v2("rtdetrv2_r50_m_84ep", "rtdetrv2_r50_m_84ep", 84, 51.9, "v0.1/rtdetrv2_r50vd_m_7x_coco_ema.pth"),
    _v2("rtdetrv2_r50_72ep", "rtdetrv2_r50_72ep", 72, 53.4, "v0.1/rtdetrv2_r50vd_6x_coco_ema.pth"),
    _v2(
        "rtdetrv2_r101_72ep",
        "rtdetrv2_r101_72ep",
        72,
        54.3,
        "v0.1/rtdetrv2_r101vd_6x_coco_from_paddle.pth",
        trained_by=_v1.trained_by,
    ),
    _v2("rtdetrv2_r18_120ep_4points", "rtdetrv2_r18_120ep", 120, 47.9, "v0.1/rtdetrv2_r18vd_120e_coco.pth"),
    _v2(
        "rtdetrv2_r18_120ep_3points",
        "rtdetrv2_r18_120ep",
        120,
        47.8,
        "v0.1/rtdetrv2_r18vd_sp3_120e_coco.pth",
        overrides=_points(3),
    ),
    _v2(
        "rtdetrv2_r18_120ep_2points",
        "rtdetrv2_r18_120ep",
        120,
        47.7,
        "v0.1/rtdetrv2_r18vd_sp2_120e_coco.pth",
        overrides=_points(2),
    ),
    _v2(
        "rtdetrv2_r18_120ep_1point",
        "rtdetrv2_r18_120ep",
        120,
        47.3,
        "v0.1/rtdetrv2_r18vd_sp1_120e_coco.pth",
        overrides=_points(1),
    ),
    _v2("rtdetrv2_r18_discrete_36ep", "rtdetrv2_r18_discrete_36ep", 36, 47.4, "v0.1/rtdetrv2_r18vd_dsp_3x_coco.pth"),
    _v2("rtdetrv2_r34_discrete_12ep", "rtdetrv2_r34_discrete_12ep", 12, 49.2, "v0.1/rrtdetrv2_r34vd_dsp_1x_coco.pth"),
    _v2(
        "rtdetrv2_r50_m_discrete_36ep",
        "rtdetrv2_r50_m_discrete_36ep",
        36,
        51.4,
        "v0.1/rtdetrv2_r50vd_m_dsp_3x_coco.pth",
    ),
    _v2("rtdetrv2_r50_discrete_12ep", "rtdetrv2_r50_discrete_12ep", 12, 52.9, "v0.1/rtdetrv2_r50vd_dsp_1x_coco.pth"),
)
