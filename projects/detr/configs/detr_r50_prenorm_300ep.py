"""DETR-R50 with norms before the blocks (--pre_norm of the paper's repository), otherwise as detr_r50_300ep.py.

detrex-lite train projects/detr/configs/detr_r50_prenorm_300ep.py --num-gpus 8
"""

from .detr_r50_300ep import dataloader, lr_multiplier, model, optimizer, train

model.transformer.encoder.layer.operation_order = ["norm", "self_attn", "norm", "ffn"]
model.transformer.decoder.layer.operation_order = ["norm", "self_attn", "norm", "cross_attn", "norm", "ffn"]
train.output_dir = "output/detr_r50_prenorm_300ep"
