import torch

from detrex_lite.engine.loop import running_means
from detrex_lite.engine.loop.running_means import RunningMeans


def test_means_are_over_the_records_that_have_the_name():
    means = RunningMeans()
    for record in ({"a": 1.0, "b": 2.0}, {"a": 3.0}, {}):
        means.add({name: torch.tensor(value) for name, value in record.items()})
    assert means.means() == {"a": 2.0, "b": 2.0}
    means.restart()
    assert means.means() == {}


def test_saving_and_restoring_does_not_change_the_sums(monkeypatch):
    monkeypatch.setattr(running_means, "MAX_WAITING", 7)
    values = torch.rand(50, generator=torch.Generator().manual_seed(0)) * 1000
    whole, broken = RunningMeans(), RunningMeans()
    for index, value in enumerate(values):
        whole.add({"a": value})
        broken.add({"a": value})
        if index in (3, 11, 30):
            saved = broken.totals()
            broken = RunningMeans()
            broken.restart(saved)
    assert broken.totals() == whole.totals()
    assert whole.means()["a"] == sum(values.tolist()) / 50


def test_the_number_of_waiting_tensors_is_limited(monkeypatch):
    monkeypatch.setattr(running_means, "MAX_WAITING", 3)
    means = RunningMeans()
    for _ in range(8):
        means.add({"a": torch.tensor(1.0)})
        assert len(means._waiting) < 3
    assert means.totals() == {"a": (8.0, 8)}
