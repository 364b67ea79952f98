"""Stable-DINO with a ResNet-50 and four feature levels: differences from DINO.

Other detectors can use each idea: `model.criterion.losses.loss_class`, `model.criterion.matcher.costs.label`
and `model.transformer.encoder.memory_fusion`.
"""

from detrex_lite.config import LazyCall as L
from detrex_lite.config import get_config
from detrex_lite.modeling import PositionModulatedCost, PositionSupervisedLoss
from detrex_lite.modeling.deformable import MemoryFusion

model = get_config("projects/dino/configs/models/dino_r50.py").model

model.transformer.encoder.memory_fusion = L(MemoryFusion)(
    embed_dim="${....embed_dim}", num_layers="${..num_layers}", num_fcs=1
)
model.criterion.losses.loss_class = L(PositionSupervisedLoss)(alpha=0.25, gamma=2.0, power=2.0)
model.criterion.matcher.costs.label = L(PositionModulatedCost)(weight=2.0, alpha=0.25, gamma=2.0, beta=0.5)
model.criterion.weights.loss_class = 6.0
model.criterion.weights.loss_class_dn = 1.0
