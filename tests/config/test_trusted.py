"""Attacks by configs: each of these names would run code when called or imported."""

import subprocess
import sys

import pytest
import torch
from torch import nn

from detrex_lite.config import ConfigError, LazyConfig, instantiate, locate, trust, validate
from detrex_lite.config import LazyCall as L
from detrex_lite.config.trusted import untrusted


@pytest.fixture(autouse=True)
def reset_trust(monkeypatch):
    """Remove the packages that a test has trusted."""
    monkeypatch.setattr("detrex_lite.config.trusted._added", {"tests"})


@pytest.fixture
def run_in(tmp_path):
    """Return a function that prints a config in a folder with a module `evil`, which writes a file when imported."""
    (tmp_path / "evil.py").write_text("open('PWNED', 'w')\ndef f(*args, **kwargs): return 'cpu'\nclass Net: pass\n")

    def run(config, *arguments, name="config.yaml"):
        (tmp_path / name).write_text(config)
        command = [sys.executable, "-m", "detrex_lite.config", name, *arguments]
        result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
        return result.returncode, result.stderr, (tmp_path / "PWNED").exists()

    return run


@pytest.mark.parametrize(
    "config",
    [
        'touch: 1\nPWNED: 1\ntrain: {device: "${detrex_lite.call:subprocess.call}"}\n',
        "train: {device: '${detrex_lite.call:evil.f}'}\n",
        "a: '${detrex_lite.call:detrex_lite.evil.f}'\n",
        "model: {_target_: evil.Net}\n",
        "model: {_target_: os.system, command: touch PWNED}\n",
        "model: {_target_: {_target_: detrex_lite.config.locate, path: evil.f}}\n",
        "model: {_target_: detrex_lite.config.LazyConfig.load, path: evil.py}\n",
    ],
)
def test_printing_a_yaml_config_runs_nothing(config, run_in):
    status, _, pwned = run_in(config)
    assert not pwned
    assert status == 2 or "locate" in config  # `locate` is called only when the config is built


def test_overrides_import_no_module(run_in):
    for overrides in (["model._target_=evil.Net"], ["model._target_=evil.Net", "model.x=1"], ["model=evil.Net"]):
        status, errors, pwned = run_in("model: {_target_: torch.nn.ReLU}", *overrides)
        assert (status, pwned) == (2, False)
        assert len(overrides) == 2 or "--trust evil" in errors


def test_trusted_packages_are_called(run_in):
    assert run_in("model: {_target_: evil.Net}", "--trust", "evil") == (0, "", True)


def test_a_python_config_trusts_its_classes_and_the_names_in_trusted(run_in):
    assert run_in("from evil import Net\nfrom detrex_lite.config import LazyCall as L\nmodel = L(Net)()", name="a.py")[
        ::2
    ] == (0, True)
    assert run_in("train = dict(trusted=['evil'])\nmodel = dict(_target_='evil.Net')", name="b.py")[0] == 0
    assert run_in("from detrex_lite.config import LazyCall as L\nmodel = L('evil.Net')()", name="c.py")[0] == 0
    assert run_in("model = dict(_target_='evil.Net')", name="d.py")[0] == 2


def test_a_yaml_config_cannot_trust_packages(run_in):
    status, _, pwned = run_in("train: {trusted: [evil]}\nmodel: {_target_: evil.Net}")
    assert (status, pwned) == (2, False)


@pytest.mark.parametrize(
    "name",
    [
        "os.system",
        "subprocess.call",
        "builtins.eval",
        "builtins.exec",
        "builtins.open",
        "builtins.__import__",
        "importlib.import_module",
        "pathlib.Path.unlink",
        "torch.load",
        "torch.save",
        "torch.from_file",
        "torch.hub.load",
        "torch.compile",
        "torch.jit.load",
        "torch.os.system",
        "torch.nn",
        "torch.nn.modules.module.torch.hub.load",
        "torch.utils.cpp_extension.load",
        "torch.utils.collect_env.run",
        "torch.multiprocessing.spawn",
        "torchvision.models.Weights",
        "timm.create_model",
        "timm.models.load_checkpoint",
        "detectron2.config.instantiate",
        "detectron2.config.LazyConfig.load",
        "detrex_lite.config.LazyConfig.load",
        "detrex_lite.config.LazyCall",
        "detrex_lite.config.trust",
        "detrex_lite.config.trusted._added",
        "detrex_lite.config.instantiate",
        "detrex_lite.config.loading.builtins.exec",
        "detrex_lite.checkpoint.read_checkpoint",
        "detrex_lite.data.coco.Path.unlink",
        "detrex_lite.data.coco.json.load",
        "detrex_lite.engine.train",
        "detrex_lite.engine.launch",
        "detrex_lite.testing.build",
        "detrex_lite.commands.train.run",
        "torch.nn.Linear.__init__.__globals__",
        "torch.nn.Linear.__subclasses__",
    ],
)
def test_untrusted_names_raise(name):
    with pytest.raises(ConfigError, match="not called|two underscores|no attribute|no module|importing"):
        locate(name)
    faults = "is not called|two underscores|no attribute|no module|importing"
    with pytest.raises(ConfigError, match=rf"part\._target_: .*({faults})"):
        validate({"part": {"_target_": name}})
    with pytest.raises(ConfigError, match=faults):
        instantiate({"_target_": "detrex_lite.config.locate", "path": name})


@pytest.mark.parametrize(
    "name",
    [
        "torch.nn.Linear",
        "torch.nn.functional.gelu",
        "torch.nn.functional.max_pool2d",
        "torch.relu",
        "torch.float16",
        "torch.channels_last",
        "torch.optim.AdamW",
        "torch.optim.lr_scheduler.StepLR",
        "torch.utils.data.DataLoader",
        "torch.nn.Module.apply",
        "torchvision.ops.FrozenBatchNorm2d",
        "torchvision.transforms.v2.RandomHorizontalFlip",
        "builtins.dict",
        "pathlib.Path",
        "functools.partial",
        "detrex_lite.projects.dino.modeling.DINO",
        "detrex_lite.data.load_coco",
    ],
)
def test_names_of_components_are_located(name):
    locate(name)


def test_a_single_module_can_be_trusted():
    with pytest.raises(ConfigError, match=r"--trust torch\.hub"):
        locate("torch.hub.load")
    trust("torch.hub")
    assert locate("torch.hub.load") is torch.hub.load
    with pytest.raises(ConfigError, match="not called"):
        locate("torch.load")


def test_only_package_names_can_be_trusted():
    for name in ("a/b.py", "", "a..b", 3):
        with pytest.raises(ConfigError, match="not the name of a package"):
            trust(name)
    assert untrusted(["tests", "x"]) == ["x"]


def test_the_resolver_calls_only_functions_of_this_package():
    cfg = LazyConfig.apply_overrides(L(nn.Linear)(in_features=1, out_features=1), [])
    for name, message in [
        ("subprocess.call", "only functions of detrex_lite"),
        ("tests.config.test_trusted.reset_trust", "only functions of detrex_lite"),
        ("detrex_lite.config.loading.load", "not called"),
        ("detrex_lite.commands.train.run", "not called"),
    ]:
        cfg.in_features = f"${{detrex_lite.call:{name}}}"
        with pytest.raises(ConfigError, match=rf"in_features: .*{message}"):
            validate(cfg)
