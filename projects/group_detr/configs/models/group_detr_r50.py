"""Group DETR with a ResNet-50 as detrex trains it, with attention among groups: see `DetrexGroupSelfAttention`."""

from detrex_lite.projects.group_detr.modeling import DetrexGroupSelfAttention

from .group_detr_r50_paper import model

model.transformer.mask_memory_padding = False
model.transformer.decoder.layer.attn[0]._target_ = DetrexGroupSelfAttention
