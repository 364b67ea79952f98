import json

import pytest
import torch

from detrex_lite.tools.benchmark.errors import BenchmarkError
from detrex_lite.tools.benchmark.machine import (
    choose_device,
    describe_machine,
    machine_facts,
    peak_device_bytes,
    peak_resident_bytes,
)


def test_facts_are_plain_values_and_make_a_line():
    facts = json.loads(json.dumps(machine_facts(torch.device("cpu"))))
    assert facts["torch"] == torch.__version__
    assert facts["threads"] == torch.get_num_threads()
    assert f"{facts['cores']} cores" in describe_machine(facts)
    gpu = {**facts, "gpu": "NVIDIA H200", "cuda": "13.0"}
    assert describe_machine(gpu).startswith("NVIDIA H200, CUDA 13.0; ")


def test_devices(monkeypatch):
    assert choose_device("cpu") == torch.device("cpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert choose_device("auto") == torch.device("cpu")
    with pytest.raises(BenchmarkError, match="there is no CUDA device; use 'cpu' or 'auto'"):
        choose_device("cuda")
    with pytest.raises(BenchmarkError, match="got 'gpu'"):
        choose_device("gpu")


def test_memory_on_a_cpu_is_that_of_the_process():
    peak = peak_resident_bytes()
    assert peak is None or peak > 2**24
    assert peak_device_bytes(lambda: None, torch.device("cpu"), own_bytes=5) is None


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_memory_on_a_gpu_is_that_of_one_side():
    device = torch.device("cuda")
    others = torch.zeros(2**22, device=device)
    mebibyte = 2**20
    peak = peak_device_bytes(lambda: torch.zeros(mebibyte, device=device, dtype=torch.uint8), device, own_bytes=10)
    assert peak == mebibyte + 10
    assert others.numel() == 2**22
