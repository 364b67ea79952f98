"""D-FINE with HGNetV2-B2, trained with its norms: four decoder layers, and short fusion blocks."""

from .dfine_l import model

model.backbone.name = "B2"
model.backbone.use_lab = True
model.backbone.norm = "BN"
model.backbone.freeze_at = 0
model.neck.fusion.num_blocks = 2
model.transformer.decoder.num_layers = 4
