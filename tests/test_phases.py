import time

import pytest
import torch

from detrex_lite.phases import PhaseTimes, phase


def test_take_returns_the_sum_per_phase_and_resets_it():
    times = PhaseTimes(torch.device("cpu"))
    with times.measure():
        for _ in range(2):
            with phase("outer"):
                time.sleep(0.01)
                with phase("inner"):
                    time.sleep(0.02)
    taken = times.take()
    assert list(taken) == ["inner", "outer"]
    assert taken["inner"] == pytest.approx(0.04, rel=0.5)
    assert taken["outer"] > taken["inner"] + 0.02
    assert times.take() == {}


def test_phases_outside_measure_are_not_recorded():
    times = PhaseTimes(torch.device("cpu"))
    with phase("before"):
        pass
    with times.measure(), phase("inside"):
        pass
    with phase("after"):
        pass
    assert list(times.take()) == ["inside"]


def test_a_phase_that_fails_is_recorded_and_raises_its_error():
    times = PhaseTimes(torch.device("cpu"))
    with pytest.raises(ValueError, match="a fault"), times.measure(), phase("failing"):
        raise ValueError("a fault")
    assert list(times.take()) == ["failing"]


def test_phases_cause_no_graph_breaks():
    def double(x):
        with phase("doubling"):
            return 2 * x

    times = PhaseTimes(torch.device("cpu"))
    with times.measure():
        compiled = torch.compile(double, backend="eager", fullgraph=True)
        assert compiled(torch.ones(1)).item() == 2.0
    assert times.take() == {}


def test_pending_spans_do_not_accumulate_without_take():
    times = PhaseTimes(torch.device("cpu"))
    for step in range(100):
        with times.measure():
            times.add("inner", step, step + 0.25)
            times.add("outer", step, step + 0.5)
        assert len(times._pending) == 2
    assert times.take() == {"inner": 25.0, "outer": 50.0}
    assert times.take() == {}


class Event:
    """A fake CUDA event. Its GPU advances only when `done` is set, or at `synchronize`."""

    now = done = 0.0

    def __init__(self, enable_timing):
        assert enable_timing

    def record(self):
        Event.now += 1000.0  # milliseconds
        self.time = Event.now

    def query(self):
        return self.time <= Event.done

    def synchronize(self):
        Event.done = max(Event.done, self.time)

    def elapsed_time(self, end):
        assert self.query()
        assert end.query()
        return end.time - self.time


def test_the_gpu_is_synchronised_only_when_the_times_are_taken(monkeypatch):
    monkeypatch.setattr(torch.cuda, "Event", Event)
    times = PhaseTimes(torch.device("cuda"))

    def step():
        with times.measure(), phase("outer"), phase("inner"):
            pass

    for number in range(1, 4):
        step()
        assert len(times._pending) == 2 * number
    assert Event.done == 0
    for _ in range(10):  # the GPU is one step behind
        Event.done = Event.now - 4000
        step()
        assert len(times._pending) == 4
    assert times.take() == {"inner": 13.0, "outer": 39.0}
    assert Event.done == Event.now


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_phases_on_a_gpu_are_measured_with_cuda_events():
    times = PhaseTimes(torch.device("cuda"))
    with times.measure(), phase("product"):
        torch.ones(4096, 4096, device="cuda") @ torch.ones(4096, 4096, device="cuda")
    assert 0 < times.take()["product"] < 10
