import math

import pytest
from fvcore.common.param_scheduler import ConstantParamScheduler, LinearParamScheduler, ParamScheduler

from detrex_lite.config import get_config, instantiate
from detrex_lite.engine import WarmupParamScheduler, constant, flat_cosine, multi_step, one_cycle


def test_multi_step_drops_at_its_milestones():
    multiplier = multi_step(epochs=300, milestones=[200], gamma=0.1)
    values = [multiplier(epoch / 300) for epoch in (0, 199, 200, 299)]
    assert values == pytest.approx([1, 1, 0.1, 0.1])


def test_multi_step_scales_with_the_length_of_the_run():
    multiplier = multi_step(epochs=3, milestones=[2], gamma=0.5)
    values = [multiplier(iteration / 30000) for iteration in (19999, 20000)]
    assert values == [1, 0.5]


def test_multi_step_accepts_fractions_of_an_epoch():
    multiplier = multi_step(epochs=1, milestones=[0.25, 0.75], gamma=0.1)
    assert [multiplier(where) for where in (0.24, 0.26, 0.76)] == pytest.approx([1, 0.1, 0.01])


@pytest.mark.parametrize("milestones", [[300], [0], [200, 100], [100, 100]])
def test_milestones_that_do_not_increase_within_the_epochs_raise(milestones):
    with pytest.raises(ValueError, match=r"must increase and lie between 0 and epochs=300"):
        multi_step(epochs=300, milestones=milestones)


def test_warmup_rises_linearly_to_the_schedule_and_follows_it():
    multiplier = WarmupParamScheduler(LinearParamScheduler(1.0, 0.0), warmup_length=0.2, warmup_factor=0.1)
    values = [multiplier(where) for where in (0, 0.1, 0.2, 0.5)]
    assert values == pytest.approx([0.1, 0.45, 0.8, 0.5])


@pytest.mark.parametrize("length", [-0.1, 1.0])
def test_a_warmup_length_outside_of_0_to_1_raises(length):
    with pytest.raises(ValueError, match=r"must be in \[0, 1\)"):
        WarmupParamScheduler(ConstantParamScheduler(1.0), warmup_length=length)


def test_multi_step_starts_with_a_warmup():
    multiplier = multi_step(epochs=10, milestones=[8], warmup_length=0.1, warmup_factor=0.5)
    assert [multiplier(where) for where in (0, 0.05, 0.1, 0.8)] == pytest.approx([0.5, 0.75, 1, 0.1])


def test_one_cycle_rises_then_falls_to_zero():
    multiplier = one_cycle(warmup_length=0.1, start_factor=0.01)
    values = [multiplier(where) for where in (0, 0.05, 0.1, 0.55, 1)]
    assert values == pytest.approx([0.01, 0.505, 1, 0.5, 0], abs=1e-9)


@pytest.mark.parametrize("length", [0, 1])
def test_one_cycle_without_a_rise_or_a_fall_raises(length):
    with pytest.raises(ValueError, match=r"must be in \(0, 1\)"):
        one_cycle(warmup_length=length)


def test_shipped_schedules_are_fvcore_schedulers_with_the_published_drops():
    schedules = get_config("common/schedule.py")
    drops = {500: 0.8, 300: 2 / 3, 50: 0.8, 12: 11 / 12}
    for epochs, drop in drops.items():
        multiplier = instantiate(schedules[f"lr_multiplier_{epochs}ep"])
        assert isinstance(multiplier, ParamScheduler)
        assert [multiplier(where) for where in (0, drop - 1e-3, drop, 1)] == pytest.approx([1, 1, 0.1, 0.1])
    assert isinstance(instantiate(schedules.lr_multiplier_one_cycle), ParamScheduler)


def test_constant_follows_a_linear_warmup():
    """In D-FINE, step i of the first 500 has the factor (i + 1) / 500."""
    steps = 132 * 3697
    multiplier = constant(warmup_length=499 / steps, warmup_factor=1 / 500)
    assert [multiplier(step / steps) for step in (0, 1, 249, 498)] == pytest.approx([1 / 500, 2 / 500, 0.5, 499 / 500])
    assert [multiplier(step / steps) for step in (499, 3697, steps - 1)] == [1, 1, 1]
    assert constant()(0.0) == 1


def test_flat_cosine_equals_the_schedule_of_deim():
    """DEIM-D-FINE-S: 3697 steps an epoch, 132 epochs, flat to 64, the last 12 at half the learning rate."""
    epoch = 3697
    steps = 132 * epoch
    multiplier = flat_cosine(epochs=132, flat_epochs=64, final_epochs=12, end_factor=0.5, warmup_epochs=2000 / epoch)

    def published(step):
        if step <= 2000:
            return (step / 2000) ** 2
        if step <= 64 * epoch:
            return 1
        if step >= 120 * epoch:
            return 0.5
        return 0.5 + 0.5 * 0.5 * (1 + math.cos(math.pi * (step - 64 * epoch) / (56 * epoch)))

    key_steps = [0, 1, 1000, 1999, 2000, 2001, 64 * epoch, 64 * epoch + 1, 92 * epoch, 120 * epoch - 1, 120 * epoch]
    for step in [*key_steps, *range(0, steps, 997), steps - 1]:
        assert multiplier(step / steps) == pytest.approx(published(step), abs=1e-9)
    assert multiplier(92 / 132) == pytest.approx(0.75)


def test_phases_of_flat_cosine_can_have_length_zero():
    assert [flat_cosine(epochs=10, flat_epochs=8, final_epochs=2)(where) for where in (0, 0.79, 0.8, 1)] == [
        1,
        1,
        1,
        0.5,
    ]
    falling = flat_cosine(epochs=10, flat_epochs=0, final_epochs=0, end_factor=0.0)
    assert [falling(where) for where in (0, 0.5, 1)] == pytest.approx([1, 0.5, 0], abs=1e-9)
    constant_rate = flat_cosine(epochs=160, flat_epochs=78, final_epochs=12, end_factor=1.0)
    assert {constant_rate(where / 10) for where in range(11)} == {1.0}


@pytest.mark.parametrize(
    "lengths",
    [
        {"epochs": 10, "flat_epochs": 8, "final_epochs": 3},
        {"epochs": 10, "flat_epochs": 2, "final_epochs": 3, "warmup_epochs": 3},
        {"epochs": 10, "flat_epochs": -1, "final_epochs": 3},
        {"epochs": 10, "flat_epochs": 5, "final_epochs": -1},
        {"epochs": 0, "flat_epochs": 0, "final_epochs": 0},
    ],
)
def test_phases_that_exceed_the_epochs_raise(lengths):
    with pytest.raises(ValueError, match="must follow each other within epochs="):
        flat_cosine(**lengths)
    with pytest.raises(ValueError, match="end_factor=2 must be in 0..1"):
        flat_cosine(epochs=10, flat_epochs=5, final_epochs=1, end_factor=2)
