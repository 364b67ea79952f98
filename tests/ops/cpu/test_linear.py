import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close
from torch.utils._python_dispatch import TorchDispatchMode

from detrex_lite.ops.cpu import linear as module
from detrex_lite.ops.cpu.linear import linear, weight_gradient


@pytest.fixture(autouse=True)
def convolve_everything(monkeypatch):
    """Use convolutions for small layers, too, and on all processors."""
    monkeypatch.setattr(module, "MIN_MACS", 1)
    monkeypatch.setattr(module, "MIN_CHANNELS", 1)
    monkeypatch.setattr(module, "_has_wide_vectors", torch.backends.mkldnn.is_available)


class _Operators(TorchDispatchMode):
    """Records the names of operators."""

    def __init__(self):
        super().__init__()
        self.names = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names.add(func.name().partition(".")[0])
        return func(*args, **(kwargs or {}))


def _inputs(*shape: int, dtype: torch.dtype = torch.float32) -> list[torch.Tensor]:
    torch.manual_seed(0)
    sizes = (shape, (24, shape[-1]), (24,))
    return [torch.randn(*size, dtype=dtype, requires_grad=True) for size in sizes]


@pytest.mark.parametrize("shape", [(50, 16), (2, 25, 16), (2, 3, 4, 16), (16,), (1, 16)])
@pytest.mark.parametrize("with_bias", [True, False])
def test_linear_agrees_with_torch(shape, with_bias):
    x, weight, bias = _inputs(*shape)
    arguments = (x, weight, bias if with_bias else None)
    with _Operators() as operators:
        actual = linear(*arguments)
    assert "aten::convolution" in operators.names  # confirms that a convolution computes the result
    expected = F.linear(*arguments)
    assert_close(actual, expected)
    gradient = torch.randn_like(expected)
    inputs = arguments if with_bias else arguments[:2]
    for actual_gradient, expected_gradient in zip(
        torch.autograd.grad(actual, inputs, gradient), torch.autograd.grad(expected, inputs, gradient), strict=True
    ):
        assert_close(actual_gradient, expected_gradient)
    rows = gradient.flatten(0, -2) if gradient.dim() > 1 else gradient[None]
    tokens = x.detach().reshape(-1, 16)
    assert_close(weight_gradient(rows, tokens, weight), torch.autograd.grad(F.linear(*arguments), weight, gradient)[0])


def test_strided_inputs_give_the_same_output():
    x, weight, bias = _inputs(25, 2, 16)
    assert_close(linear(x.transpose(0, 1), weight, bias), F.linear(x.transpose(0, 1), weight, bias))
    assert_close(linear(x, weight.t().contiguous().t(), bias), F.linear(x, weight, bias))


def test_linear_can_be_differentiated_twice():
    x, weight, _ = _inputs(20, 16)
    second_gradients = []
    for function in (linear, F.linear):
        (first_gradient,) = torch.autograd.grad(function(x, weight).square().sum(), weight, create_graph=True)
        second_gradients += torch.autograd.grad(first_gradient.square().sum(), x)
    assert_close(*second_gradients, rtol=1e-4, atol=1e-2)


def test_float64_empty_and_autocast_inputs_do_not_use_convolutions():
    x, weight, bias = _inputs(20, 16, dtype=torch.float64)
    assert torch.equal(linear(x, weight, bias), F.linear(x, weight, bias))
    assert linear(x[:0], weight, bias).shape == (0, 24)
    x, weight, bias = _inputs(20, 16)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert linear(x, weight, bias).dtype == torch.bfloat16
    with torch.backends.mkldnn.flags(enabled=False):
        assert torch.equal(linear(x, weight, bias), F.linear(x, weight, bias))


def test_linear_compiles_without_a_graph_break():
    x, weight, bias = _inputs(20, 16)
    compiled = torch.compile(linear, backend="eager", fullgraph=True)
    assert_close(compiled(x, weight, bias), F.linear(x, weight, bias))
