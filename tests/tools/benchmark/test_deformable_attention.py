import json
import math

import pytest
import torch
from torch.testing import assert_close

from detrex_lite.ops.deformable_attention import multi_scale_deformable_attention
from detrex_lite.tools.benchmark.deformable_attention import (
    BASELINE,
    PASSES,
    benchmark_deformable_attention,
    grid_sample_attention,
)
from detrex_lite.tools.benchmark.errors import BenchmarkError
from detrex_lite.tools.benchmark.operator_inputs import (
    OperatorSettings,
    cell_centres,
    make_inputs,
    parse_shapes,
    pyramid,
)

CPU = torch.device("cpu")
SHAPES = [(6, 8), (3, 4)]
TINY = dict(shapes=SHAPES, heads=4, channels=8, points=2, repeats=1)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_baseline_agrees_with_the_definition(dtype):
    value, locations, weights = make_inputs(OperatorSettings(**TINY, batch=2, dtype=dtype), CPU)
    assert locations.dtype == torch.float32
    expected = multi_scale_deformable_attention(value, SHAPES, locations, weights, backend="reference")
    assert_close(grid_sample_attention(value, SHAPES, locations, weights), expected)


def test_sampling_locations_are_spread_around_their_queries():
    settings = OperatorSettings(shapes=[(40, 60)], heads=8, points=4)
    value, locations, weights = make_inputs(settings, CPU)
    assert value.shape == (1, 2400, 8, 32)
    assert locations.shape == (1, 2400, 8, 1, 4, 2)
    assert_close(weights.sum((-1, -2)), torch.ones(1, 2400, 8))
    centres = cell_centres(settings.shapes)
    assert_close(centres[:2], torch.tensor([[0.5 / 60, 0.5 / 40], [1.5 / 60, 0.5 / 40]]))
    offsets = (locations - centres[:, None, None, None]) * torch.tensor([60.0, 40.0])  # in cells
    assert 1.9 < float(offsets.std(dim=1).mean()) < 2.1
    mean = offsets.mean(dim=1)[0, :, 0]  # (H, P, 2)
    # Head 0 of 8 points to the right; head 2 is rotated by a quarter turn.
    assert_close(mean[0], torch.tensor([[1.0, 0], [2, 0], [3, 0], [4, 0]]), rtol=0, atol=0.3)
    assert_close(mean[2, 3], torch.tensor([0.0, 4]), rtol=0, atol=0.3)


def test_the_number_of_queries_can_be_set():
    inputs = make_inputs(OperatorSettings(**TINY, queries=5), CPU)
    assert inputs.locations.shape == (1, 5, 4, 2, 2, 2)


def test_the_report_compares_all_backends_with_grid_sample():
    settings = OperatorSettings(**{**TINY, "repeats": 2}, backends=["reference", "embedding_bag"], bandwidth=1e-3)
    report = benchmark_deformable_attention(settings, CPU)
    names = [BASELINE, "reference", "embedding_bag"]
    assert list(report.timings) == [(name, kind) for kind in PASSES for name in names]
    assert report.ratio(BASELINE, "forward") == 1
    assert max(report.differences.values()) < 1e-5
    queries = 6 * 8 + 3 * 4
    numbers = 2 * queries * 4 * 8 + queries * 4 * 2 * 2 * (2 + 1)  # values and results; locations and weights
    assert report.bounds == pytest.approx({"forward": 4 * numbers / 1e9, "forward+backward": 3 * 4 * numbers / 1e9})
    assert "median / bound" in str(report)
    stored = json.loads(json.dumps(report.as_json()))
    assert [row["backend"] for row in stored["rows"]] == 2 * names
    assert all(math.isfinite(row["ratio"]) for row in stored["rows"])


def test_unavailable_backends_are_skipped_unless_requested(monkeypatch):
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    report = benchmark_deformable_attention(OperatorSettings(**TINY, queries=3), CPU)
    assert "triton" in report.skipped
    assert "triton was not measured" in str(report)
    assert report.bounds == {}
    with pytest.raises(BenchmarkError, match="'triton' was requested, but"):
        benchmark_deformable_attention(OperatorSettings(**TINY, backends=["triton"]), CPU)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"backends": ["embeding_bag"]}, "there is no backend 'embeding_bag'; did you mean 'embedding_bag'"),
        ({"dtype": "half"}, "there is no dtype 'half'; choices: bfloat16, float16, float32"),
        ({"heads": 0}, "heads must be 1 or more, got 0"),
        ({"queries": 0}, "queries must be 1 or more, got 0"),
        ({"shapes": []}, "shapes must be 1 or more, got 0"),
    ],
)
def test_invalid_settings_raise(changes, message):
    with pytest.raises(BenchmarkError, match=message):
        OperatorSettings(**{**TINY, **changes})


def test_shapes_are_computed_and_parsed():
    assert pyramid(800, 1066) == [(100, 134), (50, 67), (25, 34), (13, 17)]
    assert parse_shapes("100x134, 50x67") == [(100, 134), (50, 67)]
    for text in ("100", "axb", "10x20,", "10x-2"):
        with pytest.raises(BenchmarkError, match="HEIGHTxWIDTH"):
            parse_shapes(text)
