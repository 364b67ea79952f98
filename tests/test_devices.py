import pytest
import torch

from detrex_lite.devices import choose_device


@pytest.mark.parametrize("available", [False, True])
def test_auto_is_a_gpu_when_there_is_one(available, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: available)
    assert choose_device("auto").type == ("cuda" if available else "cpu")
    assert choose_device("cpu") == choose_device(torch.device("cpu")) == torch.device("cpu")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("gpu", "device must be 'auto', 'cpu', 'cuda', 'cuda:1' or the like, got 'gpu'"),
        ("cuda:1", "device is 'cuda:1', but there is no CUDA device; use 'cpu' or 'auto'"),
    ],
)
def test_a_device_that_is_not_there_is_an_error(name, message, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ValueError, match=message):
        choose_device(name)
