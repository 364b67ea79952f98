"""DDQ-DETR with a ResNet-50 without the dense branch."""

from .ddq_detr_r50 import model

model.branch = None
model.criterion.matchers = None
model.criterion.own_losses = None
