"""Denoising queries, for `model.denoising`."""

from detrex_lite.config import LazyCall as L
from detrex_lite.modeling import ContrastiveDenoising, GroupDenoising, PositiveDenoising

# of DN-DETR
group_denoising = L(GroupDenoising)(
    num_classes="${..num_classes}",
    embed_dim="${..embed_dim}",
    num_groups=5,
    label_noise_prob=0.2,
    box_noise_scale=0.4,
    max_queries=1000,
    padding_in_loss=False,
    mask_padding=False,
)

# of DINO
contrastive = L(ContrastiveDenoising)(
    num_classes="${..num_classes}",
    embed_dim="${..embed_dim}",
    num_pairs=100,
    label_noise_prob=0.25,
    box_noise_scale=1.0,
    with_negatives=True,
    max_queries=1000,
    padding_in_loss=True,
    mask_padding=False,
)

# of Mask DINO
positive = L(PositiveDenoising)(
    num_classes="${..num_classes}",
    embed_dim="${..embed_dim}",
    num_positives=100,
    label_noise_prob=0.2,
    box_noise_scale=0.4,
    max_queries=1000,
    padding_in_loss=True,
    mask_padding=False,
    eps="${..heads.eps}",
)
