"""Settings derived from your own data, the batch size and the available weights; see detrex_lite/engine/derived.py.

`model.merge_with(derived.model)` and so on put them into a config; on the command line, explicit values replace them.
"""

# Files of pre-trained weights: of a detector, which takes precedence, or of its backbone only. Without either,
# training starts from scratch, and takes three times as long.
pretrained = dict(detector=None, backbone=None)


def _call(name):
    return f"${{detrex_lite.call:detrex_lite.engine.derived.{name}}}"


derived = dict(
    model=dict(
        num_classes=_call("num_classes"),
        backbone=dict(
            weights=_call("backbone_weights"),
            norm=_call("backbone_norm"),
            freeze_at=_call("backbone_freeze_at"),
        ),
    ),
    optimizer=dict(lr=_call("learning_rate"), params=dict(backbone_lr_factor=_call("backbone_lr_factor"))),
    train=dict(max_epochs=_call("max_epochs"), init_checkpoint=_call("detector_weights")),
)

# The same for real-time detectors, whose backbone norms are trained, and the epochs of their augmentation. A config
# describes the published training: `published = dict(epochs=..., batch=..., lr=...)`.
derived_realtime = dict(
    model=dict(num_classes=_call("num_classes"), backbone=dict(weights=_call("backbone_weights"))),
    optimizer=derived["optimizer"],
    train=derived["train"],
    dataloader=dict(
        strong_epochs=[_call("strong_first"), _call("strong_end")],
        mosaic_epochs=["${dataloader.strong_epochs[0]}", _call("mosaic_end")],
    ),
)
