import math

from detrex_lite.evaluation import format_table
from detrex_lite.evaluation.pycocotools_bridge import METRIC_NAMES


def results(num_classes):
    metrics = {name: 10.0 + i for i, name in enumerate(METRIC_NAMES)}
    metrics["APs"] = math.nan
    return {"bbox": {**metrics, **{f"AP-class {k}": float(k) for k in range(num_classes)}}}


def test_summary_and_classes_are_aligned():
    assert format_table(results(2)).splitlines() == [
        "    AP    AP50    AP75     APs     APm     APl",
        " 10.00   11.00   12.00       -   14.00   15.00",
        "",
        "   AR1    AR10   AR100     ARs     ARm     ARl",
        " 16.00   17.00   18.00   19.00   20.00   21.00",
        "",
        "class        AP",
        "class 0    0.00",
        "class 1    1.00",
    ]


def test_many_classes_stand_side_by_side_and_none_is_lost():
    text = format_table(results(83))
    assert max(len(line) for line in text.splitlines()) <= 100
    assert len(text.splitlines()) < 35
    for k in range(83):
        assert f"class {k} " in text
        assert f"{k:.2f}" in text


def test_masks_and_panoptic_quality_stand_below_boxes():
    boxes, masks = results(1)["bbox"], {**results(1)["bbox"], "AP": 77.0}
    quality = {f"{name}{suffix}": 50.0 for suffix in ("", "_th") for name in ("PQ", "SQ", "RQ")}
    quality |= {f"{name}_st": math.nan for name in ("PQ", "SQ", "RQ")}
    quality |= {f"{name}-road": 12.5 for name in ("PQ", "SQ", "RQ")}
    assert format_table({"bbox": boxes, "own": {"x": 1.0}}) == format_table({"bbox": boxes})
    text = format_table({"bbox": boxes, "segm": masks, "panoptic_seg": quality})
    head, below, last = (
        text.partition("Masks:\n")[::2][0],
        *text.partition("Masks:\n")[2].split("Panoptic segmentation:\n"),
    )
    assert head == f"Boxes:\n{format_table({'bbox': boxes})}\n\n"
    assert below.splitlines()[1].split()[0] == "77.00"
    assert last.splitlines() == [
        "            PQ      SQ      RQ",
        "all      50.00   50.00   50.00",
        "things   50.00   50.00   50.00",
        "stuff        -       -       -",
        "",
        "class      PQ",
        "road    12.50",
    ]


def test_no_metrics():
    assert format_table({}) == "no metrics (the data set has no annotations)"
