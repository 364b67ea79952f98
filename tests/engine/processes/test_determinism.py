import warnings

import torch
from torch import nn

from detrex_lite.engine import train
from detrex_lite.engine.processes import determinism
from detrex_lite.engine.processes.determinism import deterministic_algorithms
from detrex_lite.layers import MultiScaleDeformableAttention

from ..test_resume import assert_same_run
from ..tiny import TinyDetector, tiny_config


class NondeterministicDetector(TinyDetector):
    """Calls an operator without a deterministic implementation, not even on CPUs."""

    def forward(self, batched_inputs):
        torch.zeros(5).put_(torch.tensor([1, 1]), torch.tensor([1.0, 2.0]))
        warnings.warn("the battery is low")
        return super().forward(batched_inputs)


def settings():
    return (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
        torch.backends.cudnn.deterministic,
        torch.backends.cudnn.benchmark,
    )


def test_deterministic_runs_are_equal_and_log_nondeterministic_operators(tmp_path, recwarn):
    before = settings()
    for name in ("first", "second"):
        cfg = tiny_config(tmp_path / name, "train.deterministic=True")
        cfg.model._target_ = "tests.engine.processes.test_determinism.NondeterministicDetector"
        train(cfg)
    assert settings() == before
    assert_same_run(tmp_path / "first", tmp_path / "second")
    log = (tmp_path / "first" / "log.txt").read_text()
    assert log.count("Not deterministic: put_ does not have a deterministic implementation.") == 1
    assert "battery" not in log
    assert {str(warning.message) for warning in recwarn} >= {"the battery is low"}


def test_a_warning_of_torch_is_logged_once_in_short(caplog):
    attention = "Memory Efficient attention defaults to a non-deterministic algorithm. To explicitly enable determinism"
    with deterministic_algorithms(True):
        assert settings() == (True, True, True, False)
        warnings.warn(attention)
        warnings.warn(attention)
    expected = "Not deterministic: Memory Efficient attention defaults to a non-deterministic algorithm."
    assert [message[: len(expected)] for message in caplog.messages] == [expected]


def test_settings_are_unchanged_without_deterministic():
    before = settings()
    with deterministic_algorithms(False):
        assert settings() == before


def test_nondeterministic_triton_kernels_are_logged(monkeypatch, caplog):
    model = nn.Sequential(MultiScaleDeformableAttention(8, 2, num_levels=1))
    determinism.name_own_kernels(model, torch.device("cpu"), torch.float32)
    assert not caplog.messages
    monkeypatch.setattr(determinism, "select_backend", lambda device, dtype: "triton")
    determinism.name_own_kernels(nn.Sequential(), torch.device("cuda"), torch.float32)
    assert not caplog.messages
    determinism.name_own_kernels(model, torch.device("cuda"), torch.float32)
    assert "Triton kernels. DETREX_LITE_DEFORMABLE_ATTENTION=ref" in caplog.text
