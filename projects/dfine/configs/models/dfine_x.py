"""D-FINE with HGNetV2-B5, a neck of 384 channels, and finer steps of the edges."""

from detrex_lite.config import LazyCall as L
from detrex_lite.layers import ConvNormAct

from .dfine_l import model

model.backbone.name = "B5"
model.neck.hidden_dim = 384
model.neck.encoder.layer.ffn.feedforward_dim = 2048
model.neck.output = L(ConvNormAct)(in_channels="${..hidden_dim}", out_channels="${...embed_dim}", kernel_size=1)
model.heads.bins.reg_scale = 8.0
