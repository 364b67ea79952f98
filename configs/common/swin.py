"""Swin Transformers as backbones: the last three stages, each followed by its own layer norm.

`model.backbone = get_config("common/swin.py").swin_tiny_224`, and `model.neck.in_channels = ....channels`.
"""

from detrex_lite.config import LazyCall as L
from detrex_lite.modeling import TimmBackbone, timm_channels

swin_tiny_224 = L(TimmBackbone)(
    model_name="swin_tiny_patch4_window7_224",
    out_indices=[1, 2, 3],
    weights=None,
    drop_path_rate=0.1,
    norm_outputs=True,
)
channels = L(timm_channels)(model_name="${...backbone.model_name}", out_indices="${...backbone.out_indices}")
