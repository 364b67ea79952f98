"""The changes that DEIM makes to a detector: `model.merge_with(deim_dfine)`."""

from torch import nn

from detrex_lite.config import LazyCall as L
from detrex_lite.modeling import MatchabilityAwareLoss

_silu = L(nn.SiLU)()

# Norms of the backbone are trained, and MLPs have another activation.
_deim = dict(
    backbone=dict(norm="BN", freeze_at=0),
    transformer=dict(decoder=dict(layer=dict(ffn=dict(activation=_silu)), position_head=dict(activation=_silu))),
    heads=dict(activation=_silu),
    criterion=dict(losses=dict(loss_class=L(MatchabilityAwareLoss)(gamma=1.5, alpha=1.0))),
)

# For D-FINE.
deim_dfine = dict(**_deim)
deim_dfine["heads"] = dict(activation=_silu, quality=dict(activation=_silu))

# For RT-DETRv2, with a deeper MLP for position embeddings.
deim_rtdetrv2 = dict(**_deim)
deim_rtdetrv2["transformer"] = dict(
    decoder=dict(
        layer=dict(ffn=dict(activation=_silu)), position_head=dict(activation=_silu, hidden_dim=256, num_layers=3)
    )
)
