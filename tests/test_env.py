import subprocess
import sys

import pytest
import torch

from detrex_lite import env


def test_the_report_lists_packages_machine_and_kernels():
    report = env.collect()
    text = env.format_report(report)
    assert report["packages"]["torch"] == {"version": torch.__version__, "error": None}
    assert set(report["packages"]) == {*env.REQUIRED, *env.OPTIONAL}
    for name in (
        "python",
        "detrex_lite",
        *env.REQUIRED,
        *env.OPTIONAL,
        "cpu",
        "attention",
        "deformable attention",
        "C++ compiler",
    ):
        assert f"  {name} " in text
    assert "math" in report["kernels"]["attention"]
    assert report["kernels"]["deformable attention"].startswith("cpu: embedding_bag (")


def test_missing_and_broken_packages_are_reported(tmp_path, monkeypatch):
    (tmp_path / "wandb.py").write_text("import missing_dependency")
    (tmp_path / "timm.py").write_text("raise OSError('undefined symbol')")
    monkeypatch.syspath_prepend(tmp_path)
    for name in ("wandb", "timm"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.setitem(sys.modules, "fvcore", None)
    monkeypatch.setitem(env.OPTIONAL, "no_such_package", ("nothing", "pip install it"))
    monkeypatch.setattr(env, "REQUIRED", ("fvcore",))
    report = env.collect()
    text = env.format_report(report)
    assert "wandb: broken: ModuleNotFoundError: No module named 'missing_dependency'" in text
    assert "timm: broken: OSError: undefined symbol" in text
    assert "no_such_package: not installed; needed for nothing; pip install it" in text
    assert "fvcore: not installed; needed for detrex_lite itself; pip install fvcore" in text
    # The package index may have an unrelated package named detrex-lite: no remedy may install it.
    assert not [remedy for _, remedy in env.OPTIONAL.values() if "detrex-lite" in remedy]


def test_a_broken_torch_is_reported(monkeypatch):
    def fail():
        raise RuntimeError("driver mismatch")

    monkeypatch.setattr(torch.cuda, "is_available", fail)
    monkeypatch.setattr(env, "OPTIONAL", {"triton": env.OPTIONAL["triton"]})
    report = env.collect()
    assert report["device"] == {"device": "unknown: RuntimeError: driver mismatch"}
    assert report["kernels"]["attention"] == "unknown: RuntimeError: driver mismatch"


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_the_gpu_is_described():
    assert torch.cuda.get_device_name(0) in env.collect()["device"]["cuda:0"]


def test_the_compiler_is_taken_from_the_environment_or_is_none(monkeypatch):
    monkeypatch.setattr(env.shutil, "which", lambda name: None)
    assert env._compiler() is None
    monkeypatch.setattr(env.shutil, "which", lambda name: f"/bin/{name}")
    monkeypatch.setenv("CXX", "my++")
    assert env._compiler() == "/bin/my++"


def test_importing_env_imports_no_package_that_it_reports():
    code = "import sys, detrex_lite.env; print(sorted({'torch', 'torchvision', 'scipy'} & set(sys.modules)))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
