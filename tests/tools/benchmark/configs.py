"""Models that take milliseconds."""

import time

from detrex_lite.phases import phase
from tests.engine.tiny import CONFIG_FILE, TinyDetector

TINY = str(CONFIG_FILE)
MATCHING, DIVERGED = f"{__name__}.MatchingDetector", f"{__name__}.DivergedDetector"
DETR = "projects/detr/configs/models/detr_r50.py"
SMALL_DETR = (  # overrides of DETR
    "model.backbone.depth=18",
    "model.num_classes=5",
    "model.num_queries=12",
    "model.embed_dim=64",
    "model.position_embedding.num_pos_feats=32",
    "model.transformer.encoder.layer.ffn.feedforward_dim=96",
    "model.transformer.encoder.num_layers=1",
    "model.transformer.decoder.num_layers=2",
)


class MatchingDetector(TinyDetector):
    """Marks a part of its forward pass as matching, as the criterion does."""

    def forward(self, batched_inputs):
        with phase("matching"):
            time.sleep(0.001)
        return super().forward(batched_inputs)


class DivergedDetector(TinyDetector):
    """Returns losses that are not finite."""

    def forward(self, batched_inputs):
        return {name: loss * float("nan") for name, loss in super().forward(batched_inputs).items()}
