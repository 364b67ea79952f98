import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close

from detrex_lite.ops.cpu import chunked_mlp as module
from detrex_lite.ops.cpu.chunked_mlp import chunked_mlp


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch):
    monkeypatch.setattr(module, "CHUNK_TOKENS", 3)


def _inputs(tokens: int) -> list[torch.Tensor]:
    torch.manual_seed(0)
    sizes = ((tokens, 4), (6, 4), (6,), (5, 6), (5,))
    return [torch.randn(*size, dtype=torch.float64, requires_grad=True) for size in sizes]


@pytest.mark.parametrize("tokens", [0, 1, 3, 7])
def test_it_is_two_linear_layers(tokens):
    x, *weights = _inputs(tokens)
    want = F.linear(F.relu(F.linear(x, *weights[:2])), *weights[2:])
    assert_close(chunked_mlp(x, *weights), want)
    with torch.no_grad():
        assert_close(chunked_mlp(x, *weights), want)


@pytest.mark.parametrize("drop_threshold", [0, 20000])
def test_gradients(drop_threshold):
    def function(*arguments):
        torch.manual_seed(1)  # the same values are dropped in every call
        return chunked_mlp(*arguments, drop_threshold)

    assert torch.autograd.gradcheck(function, _inputs(7))


@pytest.mark.parametrize("trained", range(5))
def test_one_gradient_is_enough(trained):
    arguments = _inputs(7)
    want = torch.autograd.grad(chunked_mlp(*arguments).sum(), arguments)[trained]
    alone = [one if number == trained else one.detach() for number, one in enumerate(arguments)]
    assert_close(torch.autograd.grad(chunked_mlp(*alone).sum(), alone[trained])[0], want)


def test_no_biases():
    x, first, _, second, _ = _inputs(7)
    assert torch.autograd.gradcheck(
        lambda *weights: chunked_mlp(x, weights[0], None, weights[1], None), (first, second)
    )


def test_dropout_keeps_the_mean():
    x, weight, bias = torch.ones(4000, 4), torch.ones(8, 4), torch.zeros(8)
    out = chunked_mlp(x, weight, bias, torch.full((1, 8), 1 / 8), None, 1 << 14)  # a quarter
    assert out.mean().item() == pytest.approx(4.0, rel=0.02)
    assert out.max().item() == pytest.approx(4.0 / 0.75)
    assert out.std().item() > 0.1
