import math

from detrex_lite.evaluation import format_table
from detrex_lite.evaluation.pycocotools_bridge import METRIC_NAMES


def results(num_classes):
    metrics = {name: 10.0 + i for i, name in enumerate(METRIC_NAMES)}
    metrics["APs"] = math.nan
    return {"bbox": {**metrics, **{f"AP-class {k}": float(k) for k in range(num_classes)}}}


def test_columns_of_summary_and_classes_are_aligned():
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


def test_many_classes_are_printed_in_several_columns():
    text = format_table(results(83))
    assert max(len(line) for line in text.splitlines()) <= 100
    assert len(text.splitlines()) < 35
    for class_index in range(83):
        assert f"class {class_index} " in text
        assert f"{class_index:.2f}" in text


def test_masks_and_panoptic_quality_are_printed_below_boxes():
    boxes, masks = results(1)["bbox"], {**results(1)["bbox"], "AP": 77.0}
    quality = {f"{name}{suffix}": 50.0 for suffix in ("", "_th") for name in ("PQ", "SQ", "RQ")}
    quality |= {f"{name}_st": math.nan for name in ("PQ", "SQ", "RQ")}
    quality |= {f"{name}-road": 12.5 for name in ("PQ", "SQ", "RQ")}
    assert format_table({"bbox": boxes, "custom": {"x": 1.0}}) == format_table({"bbox": boxes})
    text = format_table({"bbox": boxes, "segm": masks, "panoptic_seg": quality})
    box_table, mask_table, panoptic_table = (
        text.partition("Masks:\n")[::2][0],
        *text.partition("Masks:\n")[2].split("Panoptic segmentation:\n"),
    )
    assert box_table == f"Boxes:\n{format_table({'bbox': boxes})}\n\n"
    assert mask_table.splitlines()[1].split()[0] == "77.00"
    assert panoptic_table.splitlines() == [
        "            PQ      SQ      RQ",
        "all      50.00   50.00   50.00",
        "things   50.00   50.00   50.00",
        "stuff        -       -       -",
        "",
        "class      PQ",
        "road    12.50",
    ]


def test_table_without_metrics_says_so():
    assert format_table({}) == "no metrics (the data set has no annotations)"
