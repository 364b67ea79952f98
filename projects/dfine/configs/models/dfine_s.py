"""D-FINE with HGNetV2-B0, trained with its norms: three decoder layers, and thin and short fusion blocks."""

from .dfine_l import model

model.backbone.name = "B0"
model.backbone.use_lab = True
model.backbone.norm = "BN"
model.backbone.freeze_at = 0
model.neck.fusion.expansion = 0.5
model.neck.fusion.num_blocks = 1
model.transformer.decoder.num_layers = 3
