"""Plain vision transformers with a fixed number of windows for any image size, as in LW-DETR and RF-DETR.

Sources: LW-DETR (Chen et al., 2024, section 3.2) with a ViT of CAE v2; RF-DETR (Robinson et al., 2025) with DINOv2
(Oquab et al., TMLR 2024), whose class token it repeats in each window.

Letters: B batch, H x W pixels, h x w cells of a map, C channels, S windows in a row and in a column.
"""

from collections.abc import Collection, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint
from torchvision.ops import StochasticDepth

from .pretrained import Mlp, drop_path_rates, initialise, load_pretrained, pad_to_multiple
from .vit import resized_positions


class WindowedViT(nn.Module):
    """A transformer that divides images into S x S windows, which stay in the batch dimension throughout the blocks.

    Most blocks attend within windows. For blocks with global attention, the windows of an image form one sequence, so
    that no memory is moved: without relative positions, attention does not depend on the order of tokens.

    All windows have the same size: images are padded with zeros at the right and the bottom, to multiples of
    `patch_size` * S, and maps are cropped to h = ceil(H / patch_size). Attention reads the padding; the published
    recipes use image sizes that need none.

    Args:
        embed_dim: C.
        depth: number of blocks.
        num_heads: of the attention.
        hidden_dim: channels of the hidden layer of feed-forward networks; 4 * C when None.
        num_windows: S.
        global_blocks: indices of the blocks with global attention.
        out_blocks: indices of the blocks whose results are returned; they must include the last block.
        patch_size: side of a patch in pixels.
        pretrain_image_size: side of the images of the pre-training, which determines the number of absolute positions;
            they are interpolated for other sizes.
        class_token: whether each window has a class token, which is left out of the maps (DINOv2). Without one, the
            first absolute position, which belongs to the class token, is unused (CAE).
        key_bias: whether keys have a bias, as queries and values do.
        layer_scale: initial value of the channel-wise scales of a block's two branches.
        output_norm: whether maps are normalised by a shared layer norm.
        antialias: whether positions are downsampled with antialiasing.
        drop_path_rate: probability that the last residual branch of a window is dropped in training; it decreases
            towards the first one.
        activation_checkpointing: recompute activations in the backward pass instead of storing them.
        weights: a file of pre-trained weights: of CAE v2 or of DINOv2, by its authors, timm or transformers, with this
            patch size and number of positions; None for random weights.

    Attributes:
        channels: maps feature names to C; see `vit_channels`.

    Raises:
        ValueError: for an unknown block, `out_blocks` without the last block, a `drop_path_rate` that is not a
            probability, an `embed_dim` that is not a multiple of `num_heads`, or `weights` that are not a file.
        CheckpointError: for weights of a different network.
    """

    def __init__(
        self,
        *,
        embed_dim: int = 192,
        depth: int = 6,
        num_heads: int = 12,
        hidden_dim: int | None = None,
        num_windows: int = 4,
        global_blocks: Collection[int] = (1, 3, 5),
        out_blocks: Sequence[int] = (1, 3, 5),
        patch_size: int = 16,
        pretrain_image_size: int = 224,
        class_token: bool = False,
        key_bias: bool = False,
        layer_scale: float = 0.1,
        output_norm: bool = False,
        antialias: bool = False,
        drop_path_rate: float = 0.0,
        activation_checkpointing: bool = False,
        weights: str | None = None,
    ):
        super().__init__()
        for name, blocks in (("global_blocks", global_blocks), ("out_blocks", out_blocks)):
            if not set(blocks) <= set(range(depth)):
                raise ValueError(f"{name}={list(blocks)}: there are blocks 0 to {depth - 1}")
        if depth - 1 not in out_blocks:
            raise ValueError(f"out_blocks={list(out_blocks)}: it must include the last block, {depth - 1}")
        if embed_dim % num_heads:
            raise ValueError(f"embed_dim={embed_dim} is not a multiple of num_heads={num_heads}")
        if num_windows < 1:
            raise ValueError(f"num_windows={num_windows} is below 1")
        self.channels = vit_channels(embed_dim=embed_dim, out_blocks=out_blocks)
        self.num_windows = num_windows
        self.global_blocks = frozenset(global_blocks)
        self.patch_size = patch_size
        self.antialias = antialias
        self.activation_checkpointing = activation_checkpointing
        self.patch_embed = nn.Module()
        self.patch_embed.proj = nn.Conv2d(3, embed_dim, patch_size, stride=patch_size)
        self.pos_embed = nn.Parameter(torch.empty(1, (pretrain_image_size // patch_size) ** 2 + 1, embed_dim))
        nn.init.trunc_normal_(self.pos_embed, std=0.02)
        self.cls_token: nn.Parameter | None = None
        if class_token:
            self.cls_token = nn.Parameter(torch.empty(1, 1, embed_dim))
            nn.init.trunc_normal_(self.cls_token, std=0.02)
        hidden_dim = 4 * embed_dim if hidden_dim is None else hidden_dim
        self.blocks = nn.ModuleList(
            _Block(embed_dim, num_heads, hidden_dim, key_bias=key_bias, layer_scale=layer_scale, drop_rate=rate)
            for rate in drop_path_rates(drop_path_rate, depth)
        )
        self.norm = nn.LayerNorm(embed_dim, eps=1e-6) if output_norm else None
        initialise(self)
        if weights is not None:
            load_pretrained(self, weights, new="^$")

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """images: (B, 3, H, W), normalised. Returns feature name -> (B, C, h, w), h = ceil(H / patch_size)."""
        height, width = (-(-side // self.patch_size) for side in images.shape[-2:])
        images = pad_to_multiple(images, self.patch_size * self.num_windows)
        x = self.patch_embed.proj(images).permute(0, 2, 3, 1)  # type: ignore[operator]
        batch, rows, columns, _ = x.shape
        x = self._windows(x + resized_positions(self.pos_embed[:, 1:], rows, columns, antialias=self.antialias))
        maps = {}
        recompute = self.activation_checkpointing and self.training
        for index, block in enumerate(self.blocks):
            groups = self.num_windows**2 if index in self.global_blocks else 1
            x = checkpoint(block, x, groups, use_reentrant=False) if recompute else block(x, groups)
            name = f"block{index}"
            if name in self.channels:
                normed = x if self.norm is None else self.norm(x)
                maps[name] = self._whole(normed, batch, rows, columns)[..., :height, :width]
        return maps

    def _windows(self, x: Tensor) -> Tensor:
        """Reshape (B, h, w, C) to (B * S * S, tokens of a window, C), the class token first."""
        batch, height, width, channels = x.shape
        side = self.num_windows
        windows = x.view(batch, side, height // side, side, width // side, channels).transpose(2, 3)
        windows = windows.reshape(batch * side**2, -1, channels)
        if self.cls_token is None:
            return windows
        first = (self.cls_token + self.pos_embed[:, :1]).expand(windows.shape[0], -1, -1)
        return torch.cat([first, windows], dim=1)

    def _whole(self, windows: Tensor, batch: int, height: int, width: int) -> Tensor:
        """Reshape the windows of `_windows` to maps (B, C, h, w)."""
        side = self.num_windows
        if self.cls_token is not None:
            windows = windows[:, 1:]
        x = windows.reshape(batch, side, side, height // side, width // side, windows.shape[-1])
        return x.permute(0, 5, 1, 3, 2, 4).reshape(batch, -1, height, width)


def vit_channels(*, embed_dim: int, out_blocks: Sequence[int]) -> dict[str, int]:
    """Return the channels of each feature of a `WindowedViT` with these arguments, in the order of its blocks.

    Configs call it to set the input channels of the neck.
    """
    return {f"block{index}": embed_dim for index in sorted(set(out_blocks))}


class _Block(nn.Module):
    """Attention and a feed-forward network, each after a norm and with a channel-wise scale of its result."""

    def __init__(
        self, channels: int, num_heads: int, hidden: int, *, key_bias: bool, layer_scale: float, drop_rate: float
    ):
        super().__init__()
        self.norm1 = nn.LayerNorm(channels, eps=1e-6)
        self.attn = _Attention(channels, num_heads, key_bias=key_bias)
        self.norm2 = nn.LayerNorm(channels, eps=1e-6)
        self.mlp = Mlp(channels, hidden)
        self.gamma_1 = nn.Parameter(torch.full((channels,), layer_scale))
        self.gamma_2 = nn.Parameter(torch.full((channels,), layer_scale))
        self.drop_path = StochasticDepth(drop_rate, "row")

    def forward(self, x: Tensor, groups: int) -> Tensor:
        """x: (B * groups, N, C), where tokens attend to all groups of their image. Returns the same shape."""
        normed = self.norm1(x)
        attended = self.attn(normed.reshape(-1, groups * x.shape[1], x.shape[2])).view_as(x)
        x = x + self.drop_path(self.gamma_1 * attended)
        return x + self.drop_path(self.gamma_2 * self.mlp(self.norm2(x)))


class _Attention(nn.Module):
    """Multi-head self-attention of tokens (B, N, C)."""

    def __init__(self, channels: int, num_heads: int, *, key_bias: bool):
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(channels, 3 * channels, bias=key_bias)
        self.q_bias = None if key_bias else nn.Parameter(torch.zeros(channels))
        self.v_bias = None if key_bias else nn.Parameter(torch.zeros(channels))
        self.proj = nn.Linear(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        bias: Tensor | None = self.qkv.bias
        if self.q_bias is not None and self.v_bias is not None:
            bias = torch.cat([self.q_bias, torch.zeros_like(self.q_bias), self.v_bias])
        parts = F.linear(x, self.qkv.weight, bias).unflatten(-1, (3, self.num_heads, -1))
        query, key, value = parts.permute(2, 0, 3, 1, 4).unbind()
        attended = F.scaled_dot_product_attention(query, key, value)
        return self.proj(attended.transpose(1, 2).reshape(x.shape))
