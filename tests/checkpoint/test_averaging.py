import pytest
import torch

from detrex_lite.checkpoint import CheckpointError
from detrex_lite.checkpoint.averaging import Checkpoint, average, ema_weights, greedy_soup, read_for_average


def state(value, **changes):
    return {
        "weight": torch.full((2, 3), float(value)),
        "half": torch.full((4,), float(value), dtype=torch.float16),
        "bn.num_batches_tracked": torch.tensor(10 * value),
        "index": torch.arange(3),
        **changes,
    }


def checkpoint(value, **changes):
    return Checkpoint(f"{value}.pth", state(value, **changes), {})


def save(folder, name, value, **about):
    torch.save({"model": state(value), **about}, folder / name)
    return folder / name


def test_weights_are_averaged_and_counters_are_not():
    mean = average([checkpoint(1), checkpoint(2), checkpoint(6)]).state
    assert mean["weight"].unique().tolist() == [pytest.approx(3)]
    assert mean["half"].dtype == torch.float16
    assert mean["half"].unique().tolist() == [3]
    assert mean["bn.num_batches_tracked"] == 60
    assert mean["index"].tolist() == [0, 1, 2]
    weighted = average([checkpoint(1), checkpoint(2), checkpoint(6)], [0, 3, 1]).state
    assert weighted["weight"].unique().tolist() == [pytest.approx(3)]


def test_the_average_of_equal_checkpoints_is_bitwise_equal_to_them():
    torch.manual_seed(0)
    weight = torch.randn(50) / 3
    mean = average([checkpoint(1, weight=weight.clone()) for _ in range(7)], ema_weights(7, 0.9)).state["weight"]
    assert torch.equal(mean, weight)


def test_averaging_does_not_change_its_inputs():
    first, second = checkpoint(1), checkpoint(3)
    average([first, second])
    assert first.state["weight"].unique().tolist() == [1]


def test_ema_weights_give_the_moving_average_of_training():
    values, decay = [1.0, 4.0, 2.0, 8.0], 0.7
    expected = values[0]
    for value in values[1:]:
        expected = decay * expected + (1 - decay) * value
    weights = ema_weights(4, decay)
    assert sum(weights) == pytest.approx(1)
    mean = average([checkpoint(1, weight=torch.tensor(value)) for value in values], weights).state["weight"]
    assert mean.item() == pytest.approx(expected)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"further": torch.zeros(1)}, "only one of them has further"),
        ({"weight": torch.zeros(3, 3)}, r"weight: \(3, 3\) and \(2, 3\)"),
        ({"weight": torch.zeros(2, 3, dtype=torch.float64)}, "weight: float64 and float32"),
        ({"index": torch.tensor([0, 2, 1])}, "no mean: index"),
    ],
)
def test_checkpoints_of_different_models_raise_an_error(changes, message):
    with pytest.raises(CheckpointError, match=f"2.pth and 1.pth .*{message}"):
        average([checkpoint(1), checkpoint(2, **changes)])


@pytest.mark.parametrize("weights", [[1], [1, 2, 3], [0, 0], [-1, 2], [float("nan"), 1]])
def test_invalid_weights_raise_an_error(weights):
    with pytest.raises(ValueError, match="weights"):
        average([checkpoint(1), checkpoint(2)], weights)


def test_the_average_of_files_keeps_classes_and_prefers_running_means(tmp_path):
    about = {"class_names": ["a", "b"], "category_ids": [7, 3], "config": "model: {}"}
    paths = [save(tmp_path, f"{value}.pth", value, ema=state(value + 10), **about) for value in (1, 3)]
    mean = average(read_for_average(paths))
    assert mean.state["weight"].unique().tolist() == [12]
    assert mean.about == about
    last = average(read_for_average(paths, prefer_ema=False))
    assert last.state["weight"].unique().tolist() == [2]


def test_files_with_different_classes_or_without_running_means_raise_an_error(tmp_path):
    first = save(tmp_path, "1.pth", 1, class_names=["a", "b"])
    reordered = save(tmp_path, "2.pth", 2, class_names=["b", "a"])
    with_mean = save(tmp_path, "3.pth", 3, ema=state(3))
    with pytest.raises(CheckpointError, match="classes b, a.*1.pth on a, b"):
        average(read_for_average([first, reordered]))
    with pytest.raises(CheckpointError, match="3.pth has a running mean.*1.pth has none"):
        average(read_for_average([first, with_mean]))
    assert average(read_for_average([first, with_mean], prefer_ema=False))


def test_a_greedy_soup_adds_checkpoints_that_improve_the_score():
    """The best weight is 5. Of 3, 9, 6 and 4, first 6 and 4 are chosen; adding 9 or 3 would worsen their mean."""
    values = [3.0, 9.0, 6.0, 4.0]
    candidates = [checkpoint(1, weight=torch.tensor(value)) for value in values]

    def score(candidate):
        return -abs(candidate.state["weight"].item() - 5.0)

    soup = greedy_soup(4, lambda positions: [candidates[position] for position in positions], score)
    assert soup.chosen == (2, 3)
    assert soup.scores == (-2, -4, -1, -1)
    assert soup.score == 0
    assert soup.checkpoint.state["weight"].item() == 5


def test_averaging_nothing_and_invalid_decays_raise_an_error():
    with pytest.raises(ValueError, match="no checkpoint"):
        average([])
    with pytest.raises(ValueError, match="no checkpoint"):
        greedy_soup(0, lambda positions: [], lambda candidate: 0.0)
    with pytest.raises(ValueError, match="decay"):
        ema_weights(3, 1.0)
