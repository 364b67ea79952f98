"""RT-DETRv2 that samples single cells: no bilinear sampling, for runtimes without that operator."""

from .rtdetrv2_r50_m import model

model.transformer.decoder.layer.attn[1].sampling = "discrete"
