import pytest
import torch

from detrex_lite.devices import choose_device


@pytest.mark.parametrize("available", [False, True])
def test_auto_is_a_gpu_when_one_is_available(available, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: available)
    assert choose_device("auto").type == ("cuda" if available else "cpu")
    assert choose_device("cpu") == choose_device(torch.device("cpu")) == torch.device("cpu")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("gpu", "device must be 'auto', 'cpu', .*'gpu'"),
        ("cuda:1", "'cuda:1'.* no CUDA device"),
    ],
)
def test_unknown_and_unavailable_devices_raise_an_error(name, message, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ValueError, match=message):
        choose_device(name)
