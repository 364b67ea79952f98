"""Models that take milliseconds."""

from tests.engine.tiny import CONFIG_FILE

TINY = str(CONFIG_FILE)
DETR = "projects/detr/configs/models/detr_r50.py"
SMALL_DETR = (  # overrides of DETR
    "model.backbone.depth=18",
    "model.in_channels=512",
    "model.num_classes=5",
    "model.num_queries=12",
    "model.embed_dim=64",
    "model.position_embedding.num_pos_feats=32",
    "model.transformer.encoder.feedforward_dim=96",
    "model.transformer.encoder.num_layers=1",
    "model.transformer.decoder.num_layers=2",
)
