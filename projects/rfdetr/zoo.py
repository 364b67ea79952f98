"""Published checkpoints of RF-DETR. Each line: name, config, epochs, published box AP, file."""

from detrex_lite.zoo import Origin

_roboflow = Origin(
    base="https://storage.googleapis.com/rfdetr/",
    format="rfdetr",
    licence="Apache-2.0",
    num_classes=91,
    source="https://github.com/roboflow/rf-detr",
    trained_by="Roboflow",
    notes="trained on Objects365 before",
)

ENTRIES = (
    _roboflow("rfdetr_nano", "rfdetr_nano_100ep", None, 48.4, "nano_coco/checkpoint_best_regular.pth"),
    _roboflow("rfdetr_small", "rfdetr_small_100ep", None, 53.0, "small_coco/checkpoint_best_regular.pth"),
    _roboflow("rfdetr_medium", "rfdetr_medium_100ep", None, 54.7, "medium_coco/checkpoint_best_regular.pth"),
    _roboflow("rfdetr_large", "rfdetr_large_100ep", None, 56.5, "rf-detr-large-2026.pth"),
)
