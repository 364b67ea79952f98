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


def test_machine_facts_are_json_and_summarised_in_a_line():
    facts = json.loads(json.dumps(machine_facts(torch.device("cpu"))))
    assert facts["torch"] == torch.__version__
    assert facts["threads"] == torch.get_num_threads()
    assert f"{facts['cores']} cores" in describe_machine(facts)
    gpu = {**facts, "gpu": "NVIDIA H200", "cuda": "13.0"}
    assert describe_machine(gpu).startswith("NVIDIA H200, CUDA 13.0; ")


def test_devices_are_chosen_by_name(monkeypatch):
    assert choose_device("cpu") == torch.device("cpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert choose_device("auto") == torch.device("cpu")
    with pytest.raises(BenchmarkError, match="no CUDA device"):
        choose_device("cuda")
    with pytest.raises(BenchmarkError, match="got 'gpu'"):
        choose_device("gpu")


def test_peak_memory_on_a_cpu_is_that_of_the_process():
    peak = peak_resident_bytes()
    assert peak is None or peak > 2**24
    assert peak_device_bytes(lambda: None, torch.device("cpu"), own_bytes=5) is None


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_peak_memory_on_a_gpu_excludes_other_tensors():
    device = torch.device("cuda")
    other_tensors = torch.zeros(2**22, device=device)
    mebibyte = 2**20
    peak = peak_device_bytes(lambda: torch.zeros(mebibyte, device=device, dtype=torch.uint8), device, own_bytes=10)
    assert peak == mebibyte + 10
    assert other_tensors.numel() == 2**22
