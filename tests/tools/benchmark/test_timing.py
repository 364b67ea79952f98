import torch

from detrex_lite.tools.benchmark.timing import Timing, measure_matmul_rate, time_in_turns, time_once

CPU = torch.device("cpu")


def test_rounds_run_each_side_once_in_alternating_order():
    calls = []
    sides = {name: lambda name=name: calls.append(name) for name in "ab"}
    timings = time_in_turns(sides, CPU, repeats=3, warmup=2)
    assert "".join(calls) == "aabb" + "ab" + "ba" + "ab"
    assert [len(timing.seconds) for timing in timings.values()] == [3, 3]


def test_short_functions_are_repeated_within_a_round():
    calls = []
    time_in_turns({"a": lambda: calls.append(1)}, CPU, repeats=1, warmup=1, shortest=0.01)
    assert len(calls) > 20
    assert time_once(lambda: calls.append(1), CPU, calls=4) >= 0


def test_timing_summarises_its_rounds():
    timing = Timing((3.0, 1.0, 2.0, 8.0))
    assert (timing.median, timing.lowest, timing.highest) == (2.5, 1.0, 8.0)


def test_matmul_rate_is_plausible():
    assert measure_matmul_rate(CPU, torch.float32, repeats=1) > 1e6
