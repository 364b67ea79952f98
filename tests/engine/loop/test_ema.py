import math

import pytest
import torch
from torch import nn

from detrex_lite.engine import ModelEma


def test_the_average_moves_towards_the_weights():
    model = nn.Linear(1, 1, bias=False)
    nn.init.constant_(model.weight, 0.0)
    ema = ModelEma(model, decay=0.75)
    nn.init.constant_(model.weight, 1.0)
    ema.update()
    torch.testing.assert_close(ema.module.weight.detach(), torch.tensor([[0.25]]))
    ema.update()
    torch.testing.assert_close(ema.module.weight.detach(), torch.tensor([[0.4375]]))


def test_warmup_reduces_the_decay_of_early_updates():
    model = nn.Linear(1, 1, bias=False)
    nn.init.constant_(model.weight, 0.0)
    ema = ModelEma(model, decay=0.9, warmup=10)
    nn.init.constant_(model.weight, 1.0)
    ema.update()
    decay = 0.9 * (1 - math.exp(-1 / 10))
    torch.testing.assert_close(ema.module.weight.detach(), torch.tensor([[1 - decay]]))


def test_float_buffers_are_averaged_and_integer_buffers_copied():
    model = nn.BatchNorm1d(2, momentum=1.0)
    ema = ModelEma(model, decay=0.5)
    model(torch.tensor([[1.0, 2.0], [3.0, 4.0]]))
    ema.update()
    torch.testing.assert_close(ema.module.running_mean, torch.tensor([1.0, 1.5]))
    assert ema.module.num_batches_tracked.item() == 1


def test_the_average_is_not_trained_and_in_evaluation_mode():
    ema = ModelEma(nn.Sequential(nn.Linear(1, 1), nn.Dropout()), decay=0.5)
    assert not ema.module.training
    assert not any(p.requires_grad for p in ema.module.parameters())


def test_shared_parameters_are_updated_once():
    model = nn.Sequential(nn.Linear(1, 1, bias=False), nn.Linear(1, 1, bias=False))
    model[1].weight = model[0].weight
    nn.init.constant_(model[0].weight, 0.0)
    ema = ModelEma(model, decay=0.5)
    nn.init.constant_(model[0].weight, 1.0)
    ema.update()
    assert ema.module[0].weight is ema.module[1].weight
    assert ema.module[1].weight.item() == 0.5


def test_a_restored_average_continues_exactly():
    model = nn.Linear(1, 1)
    first, second = ModelEma(model, decay=0.5, warmup=3), ModelEma(model, decay=0.5, warmup=3)
    nn.init.constant_(model.weight, 7.0)
    first.update()
    second.load_state_dict(first.state_dict(), first.updates)
    for ema in (first, second):
        ema.update()
    assert second.updates == 2
    torch.testing.assert_close(first.state_dict(), second.state_dict(), rtol=0, atol=0)


def test_invalid_settings_raise():
    with pytest.raises(ValueError, match=r"decay=1.0 .* must be in \[0, 1\)"):
        ModelEma(nn.Linear(1, 1), decay=1.0)
    with pytest.raises(ValueError, match="warmup=-1 .* must not be negative"):
        ModelEma(nn.Linear(1, 1), decay=0.5, warmup=-1)


def test_many_updates_equal_a_plain_loop():
    """Covers parameters and float buffers; the decay grows as in the published code."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4)).double()
    ema = ModelEma(model, decay=0.99, warmup=20)
    expected = {name: value.clone() for name, value in model.state_dict().items()}
    for update in range(1, 61):
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter))
        model(torch.randn(5, 3, dtype=torch.float64))
        ema.update()
        decay = 0.99 * (1 - math.exp(-update / 20))
        for name, value in model.state_dict().items():
            if value.is_floating_point():
                expected[name] = decay * expected[name] + (1 - decay) * value
    expected["1.num_batches_tracked"] = torch.tensor(60)
    torch.testing.assert_close(ema.state_dict(), expected, rtol=1e-12, atol=1e-12)
