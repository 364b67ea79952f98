"""Helpers of the backbones implemented here: pre-trained weights, initial values, drop path, padding, layers."""

import re
from collections.abc import Callable, Sequence
from pathlib import Path

from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ...checkpoint import CheckpointError, load_checkpoint, model_state, read_checkpoint


def load_pretrained(model: nn.Module, weights: str, *, new: str, below: str = "") -> None:
    """Copy pre-trained weights into a backbone.

    Args:
        model: the backbone.
        weights: a file that `load_checkpoint` reads, from the network's authors or of a detector.
        new: a regular expression of names that do not exist in the classification network; they may be missing.
        below: the prefix of this module's names in the backbone of a detector.

    Raises:
        ValueError: when there is no such file.
        CheckpointError: when the file lacks any other tensor, or is of a different network.
    """
    if not Path(weights).is_file():
        raise ValueError(f"{type(model).__name__} weights={weights!r} is not a file")
    state = model_state(read_checkpoint(weights))
    state = {re.sub(rf"^(backbone\.)?({re.escape(below)})?", "", name): value for name, value in state.items()}
    missing = [name for name in load_checkpoint(model, state).missing if not re.search(new, name)]
    if missing:
        raise CheckpointError(
            f"{weights} lacks {len(missing)} of the tensors of {type(model).__name__}, which would stay random: "
            f"{', '.join(missing[:5])}{', ...' if len(missing) > 5 else ''}"
        )


def initialise(module: nn.Module) -> None:
    """Initialise linear layers with a truncated normal distribution (deviation 0.02) and zero biases, as in ViT."""
    for part in module.modules():
        if isinstance(part, nn.Linear):
            nn.init.trunc_normal_(part.weight, std=0.02)
            if part.bias is not None:
                nn.init.zeros_(part.bias)


def drop_path_rates(last: float, depth: int) -> list[float]:
    """Return the drop probability of each of `depth` blocks, from 0 to `last` in equal steps.

    Raises:
        ValueError: when `last` is not a probability below 1.
    """
    if not 0 <= last < 1:
        raise ValueError(f"drop_path_rate={last} must be at least 0 and below 1")
    return [last * index / max(depth - 1, 1) for index in range(depth)]


def pad_to_multiple(x: Tensor, multiple: int) -> Tensor:
    """Zero-pad maps (B, C, h, w) at the right and the bottom, so that `multiple` divides their height and width."""
    height, width = x.shape[-2:]
    return nn.functional.pad(x, (0, -width % multiple, 0, -height % multiple))


def run_blocks(blocks: Sequence[Callable[[Tensor], Tensor]] | nn.ModuleList, x: Tensor, *, recompute: bool) -> Tensor:
    """Run the blocks in order; with `recompute`, activations are recomputed in the backward pass."""
    for block in blocks:
        x = checkpoint(block, x, use_reentrant=False) if recompute else block(x)
    return x


def stage_channels(*, embed_dim: int, out_indices: Sequence[int]) -> dict[str, int]:
    """Return the channels of each feature of a network whose four stages double its channels, finest first.

    Configs call it to set the input channels of the neck after a `FocalNet` or an `InternImage`.

    Args:
        embed_dim: channels of the first stage.
        out_indices: the stages, 0 (stride 4) to 3 (stride 32).

    Raises:
        ValueError: for an unknown stage, or no stages.
    """
    if not out_indices or not set(out_indices) <= {0, 1, 2, 3}:
        raise ValueError(f"out_indices={list(out_indices)}: choices are 0 (stride 4), 1, 2 and 3 (stride 32)")
    return {f"stage{index}": embed_dim << index for index in sorted(set(out_indices))}


class Mlp(nn.Module):
    """Two linear layers with a GELU between them."""

    def __init__(self, channels: int, hidden: int):
        super().__init__()
        self.fc1 = nn.Linear(channels, hidden)
        self.fc2 = nn.Linear(hidden, channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(nn.functional.gelu(self.fc1(x)))
