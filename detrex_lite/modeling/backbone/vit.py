"""Plain vision transformers for detection: ViTDet, EVA-01 and EVA-02, with windowed attention in most blocks.

Sources: ViTDet (Li et al., ECCV 2022), whose decomposed relative positions are those of MViTv2 (Li et al., CVPR 2022);
EVA (Fang et al., CVPR 2023); EVA-02 (Fang et al., 2023), whose rotary positions are those of RoFormer (Su et al.,
2021). Parameter names are detectron2's and EVA's (https://github.com/baaivision/EVA; code and weights: MIT licence),
which detrex keeps. The weights of MAE, from which ViTDet starts, are licensed for non-commercial use (CC-BY-NC 4.0).

Letters: B batch, h x w cells of a map, C channels.
"""

from collections.abc import Callable, Collection

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops import StochasticDepth

from .pretrained import Mlp, drop_path_rates, initialise, run_blocks


class PlainTransformer(nn.Module):
    """Patch embedding, absolute positions, and blocks of equal width. Subclasses create the blocks.

    Args:
        embed_dim: channels.
        depth: number of blocks.
        window_size: side, in patches, of the windows of windowed attention.
        global_blocks: indices of the blocks with global attention.
        patch_size: side of a patch in pixels.
        pretrain_image_size: side of the images of the pre-training, which determines the number of absolute positions;
            they are interpolated for other sizes.
        drop_path_rate: probability that the last residual branch is dropped in training; it decreases towards the
            first one.
        freeze_patch_embed: do not train the patch embedding.
        activation_checkpointing: recompute activations in the backward pass instead of storing them.
        block: (side of the windows or 0, drop rate) -> module on maps (B, h, w, C).

    Attributes:
        channels: C of the returned map.
        stride: of the returned map, in pixels.

    Raises:
        ValueError: for an unknown block, or a `drop_path_rate` that is not a probability.
    """

    def __init__(
        self,
        *,
        embed_dim: int,
        depth: int,
        window_size: int,
        global_blocks: Collection[int],
        patch_size: int,
        pretrain_image_size: int,
        drop_path_rate: float,
        freeze_patch_embed: bool,
        activation_checkpointing: bool,
        block: Callable[[int, float], nn.Module],
    ):
        super().__init__()
        if not set(global_blocks) <= set(range(depth)):
            raise ValueError(f"global_blocks={list(global_blocks)}: there are blocks 0 to {depth - 1}")
        self.channels, self.stride = embed_dim, patch_size
        self.activation_checkpointing = activation_checkpointing
        self.patch_embed = nn.Module()
        self.patch_embed.proj = nn.Conv2d(3, embed_dim, patch_size, stride=patch_size)
        # The first position belongs to the class token, which detectors do not have.
        self.pos_embed = nn.Parameter(torch.empty(1, (pretrain_image_size // patch_size) ** 2 + 1, embed_dim))
        nn.init.trunc_normal_(self.pos_embed, std=0.02)
        rates = drop_path_rates(drop_path_rate, depth)
        self.blocks = nn.ModuleList(
            block(0 if index in global_blocks else window_size, rate) for index, rate in enumerate(rates)
        )
        initialise(self)
        self.patch_embed.requires_grad_(not freeze_patch_embed)

    def forward(self, images: Tensor) -> Tensor:
        """images: (B, 3, H, W), at least one patch. Returns (B, C, H // stride, W // stride)."""
        x = self.patch_embed.proj(images).permute(0, 2, 3, 1)  # type: ignore[operator]
        x = x + resized_positions(self.pos_embed[:, 1:], x.shape[1], x.shape[2])
        x = run_blocks(self.blocks, x, recompute=self.activation_checkpointing and self.training)
        return x.permute(0, 3, 1, 2)


class ViTDet(PlainTransformer):
    """The transformer of ViTDet or, with `key_bias=False`, of EVA-01.

    Args:
        num_heads: of the attention.
        hidden_dim: channels of the hidden layer of feed-forward networks.
        image_size: side of the images of detector training, which determines the number of relative positions in
            blocks with global attention; they are interpolated for other sizes.
        key_bias: whether keys have a bias, as queries and values do.

    For the other arguments, attributes and errors see `PlainTransformer`.
    """

    def __init__(
        self,
        *,
        embed_dim: int = 768,
        depth: int = 12,
        num_heads: int = 12,
        hidden_dim: int = 3072,
        window_size: int = 14,
        global_blocks: Collection[int] = (2, 5, 8, 11),
        image_size: int = 1024,
        patch_size: int = 16,
        pretrain_image_size: int = 224,
        key_bias: bool = True,
        drop_path_rate: float = 0.1,
        freeze_patch_embed: bool = False,
        activation_checkpointing: bool = False,
    ):
        def block(window: int, drop_rate: float) -> nn.Module:
            attention = RelativeAttention(embed_dim, num_heads, window or image_size // patch_size, key_bias=key_bias)
            return _Block(embed_dim, attention, Mlp(embed_dim, hidden_dim), window, drop_rate)

        super().__init__(
            embed_dim=embed_dim,
            depth=depth,
            window_size=window_size,
            global_blocks=global_blocks,
            patch_size=patch_size,
            pretrain_image_size=pretrain_image_size,
            drop_path_rate=drop_path_rate,
            freeze_patch_embed=freeze_patch_embed,
            activation_checkpointing=activation_checkpointing,
            block=block,
        )


class EVA02(PlainTransformer):
    """The transformer of EVA-02, with rotary positions and gated feed-forward networks that contain a norm.

    Args:
        num_heads: of the attention.
        hidden_dim: channels of the hidden layer of feed-forward networks.
        image_size: side of the images of detector training. Rotary positions are scaled so that such an image spans 16
            cells, as a window does; larger images extend beyond.

    For the other arguments, attributes and errors see `PlainTransformer`.
    """

    def __init__(
        self,
        *,
        embed_dim: int = 768,
        depth: int = 12,
        num_heads: int = 12,
        hidden_dim: int = 2048,
        window_size: int = 16,
        global_blocks: Collection[int] = (2, 5, 8, 11),
        image_size: int = 1024,
        patch_size: int = 16,
        pretrain_image_size: int = 224,
        drop_path_rate: float = 0.1,
        freeze_patch_embed: bool = False,
        activation_checkpointing: bool = False,
    ):
        def block(window: int, drop_rate: float) -> nn.Module:
            attention = RotaryAttention(embed_dim, num_heads, window or image_size // patch_size)
            return _Block(embed_dim, attention, _GatedMlp(embed_dim, hidden_dim), window, drop_rate)

        super().__init__(
            embed_dim=embed_dim,
            depth=depth,
            window_size=window_size,
            global_blocks=global_blocks,
            patch_size=patch_size,
            pretrain_image_size=pretrain_image_size,
            drop_path_rate=drop_path_rate,
            freeze_patch_embed=freeze_patch_embed,
            activation_checkpointing=activation_checkpointing,
            block=block,
        )


class _Block(nn.Module):
    """Windowed or global attention and a feed-forward network, each after a norm."""

    def __init__(self, channels: int, attention: nn.Module, mlp: nn.Module, window: int, drop_rate: float):
        super().__init__()
        self.norm1 = nn.LayerNorm(channels, eps=1e-6)
        self.attn = attention
        self.norm2 = nn.LayerNorm(channels, eps=1e-6)
        self.mlp = mlp
        self.window = window
        self.drop_path = StochasticDepth(drop_rate, "row")

    def forward(self, x: Tensor) -> Tensor:
        normed = self.norm1(x)
        attended = in_windows(self.attn, normed, self.window) if self.window else self.attn(normed)
        x = x + self.drop_path(attended)
        return x + self.drop_path(self.mlp(self.norm2(x)))


def in_windows(function: Callable[[Tensor], Tensor], x: Tensor, side: int) -> Tensor:
    """Apply `function` to each window of side x side cells, after padding the map with zeros to whole windows.

    Args:
        function: (B, side, side, C) -> the same shape.
        x: (B, h, w, C).
        side: of a window, in cells.

    Returns:
        (B, h, w, C).
    """
    batch, height, width, channels = x.shape
    padded = F.pad(x, (0, 0, 0, -width % side, 0, -height % side))
    rows, columns = padded.shape[1] // side, padded.shape[2] // side
    windows = padded.view(batch, rows, side, columns, side, channels).transpose(2, 3)
    windows = function(windows.reshape(-1, side, side, channels))
    whole = windows.view(batch, rows, columns, side, side, channels).transpose(2, 3)
    return whole.reshape(batch, rows * side, columns * side, channels)[:, :height, :width]


class RelativeAttention(nn.Module):
    """Multi-head self-attention with a bias that depends on the distance of key and query in rows and in columns.

    The bias is the product of the query and a learned vector for the distance (MViTv2, equation 4).

    Args:
        channels: of the map.
        num_heads: number of heads; it must divide `channels`.
        size: side of the map whose distances have learned vectors; they are interpolated for other sizes.
        key_bias: whether keys have a bias, as queries and values do.
    """

    def __init__(self, channels: int, num_heads: int, size: int, *, key_bias: bool = True):
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(channels, 3 * channels, bias=key_bias)
        self.q_bias = None if key_bias else nn.Parameter(torch.zeros(channels))
        self.v_bias = None if key_bias else nn.Parameter(torch.zeros(channels))
        self.proj = nn.Linear(channels, channels)
        self.rel_pos_h = nn.Parameter(torch.zeros(2 * size - 1, channels // num_heads))
        self.rel_pos_w = nn.Parameter(torch.zeros(2 * size - 1, channels // num_heads))

    def forward(self, x: Tensor) -> Tensor:
        """x: (B, h, w, C). Returns the same shape."""
        _, height, width, _ = x.shape
        bias: Tensor | None = self.qkv.bias
        if self.q_bias is not None and self.v_bias is not None:
            bias = torch.cat([self.q_bias, torch.zeros_like(self.q_bias), self.v_bias])
        query, key, value = F.linear(x, self.qkv.weight, bias).unflatten(-1, (3, self.num_heads, -1)).unbind(3)
        rows, columns = _distances(self.rel_pos_h, height), _distances(self.rel_pos_w, width)
        of_rows = torch.einsum("bhwnc,hkc->bnhwk", query, rows)
        of_columns = torch.einsum("bhwnc,wkc->bnhwk", query, columns)
        biases = (of_rows[..., :, None] + of_columns[..., None, :]).flatten(4).flatten(2, 3)
        query, key, value = (projection.flatten(1, 2).transpose(1, 2) for projection in (query, key, value))
        attended = F.scaled_dot_product_attention(query, key, value, attn_mask=biases)
        return self.proj(attended.transpose(1, 2).reshape(x.shape))


class RotaryAttention(nn.Module):
    """Multi-head self-attention with rotary positions: queries and keys are rotated by angles that encode the cell.

    Args:
        channels: of the map. The channels of a head, a multiple of 4, encode rows and columns in halves.
        num_heads: of the attention.
        size: side of a map whose rows and columns are numbered from 0 to 16 in equal steps.
    """

    def __init__(self, channels: int, num_heads: int, size: int):
        super().__init__()
        if channels % (4 * num_heads):
            raise ValueError(f"{channels} channels with {num_heads} heads: a head needs a multiple of 4 channels")
        self.num_heads, self.size = num_heads, size
        self.q_proj = nn.Linear(channels, channels, bias=False)
        self.k_proj = nn.Linear(channels, channels, bias=False)
        self.v_proj = nn.Linear(channels, channels, bias=False)
        self.q_bias = nn.Parameter(torch.zeros(channels))
        self.v_bias = nn.Parameter(torch.zeros(channels))
        self.proj = nn.Linear(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        """x: (B, h, w, C). Returns the same shape."""
        query = F.linear(x, self.q_proj.weight, self.q_bias)
        key = self.k_proj(x)
        value = F.linear(x, self.v_proj.weight, self.v_bias)
        query, key, value = (
            projection.flatten(1, 2).unflatten(2, (self.num_heads, -1)).transpose(1, 2)
            for projection in (query, key, value)
        )
        cosine, sine = self._rotation(x, query.shape[-1])
        rotated = [projection * cosine + _quarter_turn(projection) * sine for projection in (query, key)]
        attended = F.scaled_dot_product_attention(rotated[0], rotated[1], value)
        return self.proj(attended.transpose(1, 2).reshape(x.shape))

    def _rotation(self, x: Tensor, channels: int) -> tuple[Tensor, Tensor]:
        """Return cosines and sines of the angles of each cell of a map (B, h, w, C): (h * w, channels of a head)."""
        _, height, width, _ = x.shape
        half = channels // 2
        # Computed in single precision regardless of the model's dtype, as published.
        speeds = 1 / 10000 ** (torch.arange(0, half, 2, dtype=torch.float32, device=x.device) / half)
        angles = []
        for side in (height, width):
            coordinates = torch.arange(side, dtype=torch.float32, device=x.device) / self.size * 16
            angles.append((coordinates[:, None] * speeds).repeat_interleave(2, dim=1))
        rows, columns = angles[0][:, None].expand(-1, width, -1), angles[1][None].expand(height, -1, -1)
        angle = torch.cat([rows, columns], dim=-1).flatten(0, 1)
        return angle.cos().to(x.dtype), angle.sin().to(x.dtype)


class _GatedMlp(nn.Module):
    """SwiGLU (Shazeer, 2020) with a norm before the last layer."""

    def __init__(self, channels: int, hidden: int):
        super().__init__()
        self.w1 = nn.Linear(channels, hidden)
        self.w2 = nn.Linear(channels, hidden)
        self.ffn_ln = nn.LayerNorm(hidden, eps=1e-6)
        self.w3 = nn.Linear(hidden, channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.w3(self.ffn_ln(F.silu(self.w1(x)) * self.w2(x)))


def _quarter_turn(x: Tensor) -> Tensor:
    """Map pairs of channels (a, b) to (-b, a)."""
    first, second = x.unflatten(-1, (-1, 2)).unbind(-1)
    return torch.stack([-second, first], dim=-1).flatten(-2)


def _distances(vectors: Tensor, side: int) -> Tensor:
    """Gather the vector of the distance between each pair of `side` cells: (2 * size - 1, C) to (side, side, C)."""
    if vectors.shape[0] != 2 * side - 1:
        vectors = F.interpolate(vectors.T[None], size=2 * side - 1, mode="linear")[0].T
    index = torch.arange(side, device=vectors.device)
    return vectors[index[:, None] - index + side - 1]


def resized_positions(positions: Tensor, height: int, width: int, *, antialias: bool = False) -> Tensor:
    """Interpolate the positions of a square map, (1, n * n, C), to a map of another size, (1, h, w, C)."""
    side = int(positions.shape[1] ** 0.5)
    square = positions.unflatten(1, (side, side))
    if (height, width) == (side, side):
        return square
    resized = F.interpolate(
        square.permute(0, 3, 1, 2), size=(height, width), mode="bicubic", align_corners=False, antialias=antialias
    )
    return resized.permute(0, 2, 3, 1)
