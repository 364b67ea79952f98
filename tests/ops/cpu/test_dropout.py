import pytest
import torch
from torch.testing import assert_close

from detrex_lite.ops.cpu.modules import AcceleratedDropout as Dropout


@pytest.mark.parametrize("p", [0.1, 0.5, 0.003])
def test_dropout_drops_the_given_fraction_and_keeps_the_mean(p):
    torch.manual_seed(0)
    x = torch.ones(1001, 999, requires_grad=True)
    out = Dropout(p)(x)
    kept = out != 0
    deviation = (p * (1 - p) / x.numel()) ** 0.5
    assert abs(kept.float().mean().item() - (1 - p)) < 4 * deviation + 2**-16
    assert_close(out[kept], torch.full_like(out[kept], 1 / (1 - p)), rtol=1e-4, atol=0)
    out.sum().backward()
    assert_close(x.grad, out.detach())


def test_elements_are_dropped_independently():
    torch.manual_seed(0)
    kept = (Dropout(0.5)(torch.ones(200_000)) != 0).double() - 0.5
    for distance in (1, 2, 3, 4, 5):  # four elements share a random number
        assert (kept[distance:] * kept[:-distance]).mean().abs() < 4 * 0.25 / 200_000**0.5


def test_dropout_is_reproducible_and_off_in_evaluation():
    dropout, x = Dropout(0.3), torch.randn(7, 5)
    results = []
    for _ in range(2):
        torch.manual_seed(3)
        results.append(dropout(x))
    assert_close(*results, rtol=0, atol=0)
    assert dropout.eval()(x) is x


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_dropout_keeps_the_dtype_and_accepts_empty_tensors(dtype):
    assert Dropout(0.5)(torch.ones(3, dtype=dtype)).dtype == dtype
    assert Dropout(0.5)(torch.ones(0, 4, dtype=dtype)).shape == (0, 4)


@pytest.mark.parametrize(("p", "expected"), [(0.0, 1.0), (1.0, 0.0), (1e-7, 1.0)])
def test_probabilities_of_zero_and_one_are_exact(p, expected):
    torch.manual_seed(0)
    assert_close(Dropout(p)(torch.ones(10)), torch.full((10,), expected))
