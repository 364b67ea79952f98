"""Focus-DETR with a ResNet-50 and four feature levels, as detrex trains it: differences from DINO.

With `model.transformer.encoder.foreground_share=1.0` and layer shares of 1.0, all layers refine all tokens.
"""

from detrex_lite.config import LazyCall as L
from detrex_lite.config import get_config
from detrex_lite.layers import MultiheadAttention
from detrex_lite.modeling.deformable import ForegroundScores, SparseEncoder, SparseEncoderLayer
from detrex_lite.projects.focus_detr.modeling import FocusDETR

model = get_config("projects/dino/configs/models/dino_r50.py").model

model._target_ = FocusDETR
_layer = model.transformer.encoder.layer
model.transformer.encoder = L(SparseEncoder)(
    layer=L(SparseEncoderLayer)(
        self_attn=L(MultiheadAttention)(
            embed_dim="${.....embed_dim}",
            num_heads="${..attn.num_heads}",
            attn_drop="${..attn.dropout}",
            proj_drop="${.attn_drop}",
        ),
        attn=_layer.attn,
        ffn=_layer.ffn,
        norm=_layer.norm,
        num_best=300,
    ),
    num_layers=6,
    foreground=L(ForegroundScores)(embed_dim="${....embed_dim}", strides=[8, 16, 32, 64], loss_weight=1.5),
    foreground_share=0.5,
    layer_shares=[1.0, 0.8, 0.6, 0.6, 0.4, 0.2],
)
