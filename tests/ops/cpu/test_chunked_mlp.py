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
def test_chunked_mlp_agrees_with_two_linear_layers(tokens):
    x, *weights = _inputs(tokens)
    expected = F.linear(F.relu(F.linear(x, *weights[:2])), *weights[2:])
    assert_close(chunked_mlp(x, *weights), expected)
    with torch.no_grad():
        assert_close(chunked_mlp(x, *weights), expected)


@pytest.mark.parametrize("drop_threshold", [0, 20000])
def test_gradients_agree_with_finite_differences(drop_threshold):
    def function(*arguments):
        torch.manual_seed(1)  # the same values are dropped in every call
        return chunked_mlp(*arguments, drop_threshold)

    assert torch.autograd.gradcheck(function, _inputs(7))


@pytest.mark.parametrize("trained", range(5))
def test_single_gradients_can_be_computed(trained):
    arguments = _inputs(7)
    expected = torch.autograd.grad(chunked_mlp(*arguments).sum(), arguments)[trained]
    single_leaf = [value if number == trained else value.detach() for number, value in enumerate(arguments)]
    assert_close(torch.autograd.grad(chunked_mlp(*single_leaf).sum(), single_leaf[trained])[0], expected)


def test_biases_are_optional():
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
