"""Feed-forward blocks: the FFN of transformer layers, and the multi-layer perceptron of prediction heads."""

import itertools
from collections.abc import Callable

from torch import Tensor, nn

from .convolution import Activation, make_activation


class FFN(nn.Module):
    """Linear layers with an activation and dropout between them, and an identity connection around them.

    Args:
        embed_dim: input channels.
        feedforward_dim: channels of the hidden layers.
        output_dim: output channels; `embed_dim` when None. With the identity connection it must be `embed_dim`.
        num_fcs: number of linear layers, at least 2.
        activation: a module, of which each hidden layer gets a copy with the same initial values, or a class or
            function that creates one and is called once per hidden layer.
        ffn_drop: dropout probability after each layer, in training.
        fc_bias: whether the linear layers have biases.
        add_identity: whether the identity (by default the input) is added to the output.

    Raises:
        ValueError: when `num_fcs` is below 2, `add_identity` is set although the dimensions differ, or `activation` is
            neither a module nor callable.
    """

    def __init__(
        self,
        embed_dim: int = 256,
        feedforward_dim: int = 1024,
        output_dim: int | None = None,
        num_fcs: int = 2,
        activation: nn.Module | Callable[[], nn.Module] = nn.ReLU,
        ffn_drop: float = 0.0,
        fc_bias: bool = True,
        add_identity: bool = True,
    ):
        super().__init__()
        output_dim = embed_dim if output_dim is None else output_dim
        if num_fcs < 2:
            raise ValueError(f"num_fcs={num_fcs} is below 2: a feed-forward block has a hidden layer")
        if add_identity and output_dim != embed_dim:
            raise ValueError(
                f"add_identity needs output_dim == embed_dim, got {output_dim} and {embed_dim}; pass add_identity=False"
            )
        if not callable(activation):
            raise ValueError(f"activation={activation!r} is not a module, class or function, such as torch.nn.GELU")
        widths = [embed_dim, *[feedforward_dim] * (num_fcs - 1), output_dim]
        self.layers = nn.ModuleList(
            nn.Linear(in_width, out_width, bias=fc_bias) for in_width, out_width in itertools.pairwise(widths)
        )
        self.activations = nn.ModuleList(make_activation(activation) for _ in range(num_fcs - 1))
        self.dropout = nn.Dropout(ffn_drop)
        self.add_identity = add_identity
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw Xavier-uniform weights for the linear layers, as DETR's repository does; biases are left unchanged."""
        for layer in self.layers:
            nn.init.xavier_uniform_(layer.get_parameter("weight"))

    def forward(self, x: Tensor, identity: Tensor | None = None) -> Tensor:
        """x: (..., embed_dim); identity: (..., output_dim), `x` when None. Returns (..., output_dim)."""
        out = x
        for layer, activation in zip(self.layers, self.activations, strict=False):
            out = self.dropout(activation(layer(out)))
        out = self.dropout(self.layers[-1](out))
        identity = x if identity is None else identity
        return identity + out if self.add_identity else out


class MLP(nn.Module):
    """Linear layers with an activation between them: the box head of DETR.

    Args:
        input_dim, hidden_dim, output_dim: channels before, between and after the layers.
        num_layers: number of linear layers, at least 1.
        activation: a module, which is copied, or a class or function that creates one; shared by all layers.

    Raises:
        ValueError: when `num_layers` is below 1.
    """

    def __init__(
        self, input_dim: int, hidden_dim: int, output_dim: int, num_layers: int, activation: Activation = nn.ReLU
    ):
        super().__init__()
        if num_layers < 1:
            raise ValueError(f"num_layers={num_layers} is below 1")
        widths = [input_dim, *[hidden_dim] * (num_layers - 1), output_dim]
        self.layers = nn.ModuleList(
            nn.Linear(in_width, out_width) for in_width, out_width in itertools.pairwise(widths)
        )
        self.activation = make_activation(activation)

    def forward(self, x: Tensor) -> Tensor:
        """x: (..., input_dim). Returns (..., output_dim)."""
        *hidden, last = self.layers
        for layer in hidden:
            x = self.activation(layer(x))
        return last(x)
