import subprocess
import sys
from textwrap import dedent

import pytest
from omegaconf import DictConfig, ListConfig

from detrex_lite.config import ConfigError, LazyConfig, get_config, instantiate
from detrex_lite.engine import clear_errors


@pytest.fixture
def write(tmp_path):
    """Return a function that writes files below `tmp_path` from their names and sources, and returns the folder."""

    def write_files(**sources):
        for name, source in sources.items():
            file = tmp_path / (name.replace("__", "/") + ".py")
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(dedent(source))
        return tmp_path

    return write_files


def test_public_dicts_and_omegaconf_containers_form_the_config(write):
    root = write(
        a="""
        import math
        from omegaconf import OmegaConf

        nested = dict(x=1, inner=dict(y=[1, 2]))
        created = OmegaConf.create({"z": 3})
        items = OmegaConf.create([1, 2])
        _private = dict(x=1)
        number = 3
        plain_list = [1]
        def function(): pass
        """
    )
    cfg = LazyConfig.load(root / "a.py")
    assert isinstance(cfg, DictConfig)
    assert set(cfg) == {"nested", "created", "items"}
    assert cfg.nested.inner.y == [1, 2]
    assert isinstance(cfg["items"], ListConfig)


def test_keys_return_variables_of_any_type(write):
    root = write(a="x = dict(a=1); n = 3")
    assert LazyConfig.load(str(root / "a.py"), "n") == 3
    x, n = LazyConfig.load(root / "a.py", ("x", "n"))
    assert isinstance(x, DictConfig)
    assert (x.a, n) == (1, 3)


def test_relative_imports_need_no_package(write):
    root = write(
        common__train="train = dict(max_iter=10, amp=dict(enabled=False))",
        models__net="""
        from torch import nn
        from detrex_lite.config import LazyCall as L
        from .parts import activation

        model = L(nn.Sequential)(_args_=[L(nn.Linear)(in_features=2, out_features=3), activation])
        """,
        models__parts="""
        from torch import nn
        from detrex_lite.config import LazyCall as L

        activation = L(nn.ReLU)()
        """,
        runs__short__leaf="""
        from ...common.train import train
        from ...models.net import model

        train.max_iter = 5
        model._args_[0].out_features = 4
        """,
    )
    cfg = LazyConfig.load(root / "runs/short/leaf.py")
    assert set(cfg) == {"train", "model"}
    assert cfg.train.max_iter == 5
    assert instantiate(cfg.model)[0].out_features == 4


def test_two_loads_share_no_memory(write):
    root = write(
        base="settings = dict(values=[1, 2]); shared = settings",
        leaf="from .base import settings, shared\nimport json\nsettings['loaded'] = 1",
    )
    first = LazyConfig.load(root / "leaf.py")
    first.settings["values"].append(3)
    first.settings.new = 1
    second = LazyConfig.load(root / "leaf.py")
    assert second.settings == {"values": [1, 2], "loaded": 1}
    assert "loaded" not in LazyConfig.load(root / "base.py").settings
    assert first.settings.new == 1


def test_imports_of_ordinary_modules_are_shared(write):
    root = write(
        a="""
        import os.path as p, json
        from collections import abc as abc_
        same = dict(m=json, a=abc_, p=p.sep)
        """
    )
    import collections.abc
    import json
    import os

    cfg = LazyConfig.load(root / "a.py")
    assert cfg.same.m is json
    assert cfg.same.a is collections.abc
    assert cfg.same.p == os.path.sep


def test_star_imports_import_public_names(write):
    root = write(base="a = dict(x=1); _b = dict(x=2)", leaf="from .base import *\na.x = 5")
    cfg = LazyConfig.load(root / "leaf.py")
    assert cfg == {"a": {"x": 5}}


def test_an_import_inside_a_function_of_a_config_file_works(write):
    root = write(base="a = dict(x=1)", leaf="def make():\n    from .base import a\n    return a\nresult = make()")
    assert LazyConfig.load(root / "leaf.py").result.x == 1


def test_values_may_be_lambdas_and_interpolations_cross_variables(write):
    root = write(
        a="""
        train = dict(lr=0.5)
        optimizer = dict(lr='${train.lr}', local='${.lr}', f=lambda x: x + 1, b=(1, 2))
        """
    )
    cfg = LazyConfig.load(root / "a.py")
    assert cfg.optimizer.local == 0.5
    assert cfg.optimizer.f(1) == 2
    assert cfg.optimizer.b == [1, 2]


def test_targets_are_replaced_as_in_detectron2(write):
    root = write(
        base="""
        from torch import nn
        from detrex_lite.config import LazyCall as L
        conv = L(nn.Conv2d)(in_channels=1, out_channels=2, kernel_size=1)
        model = L(nn.Sequential)(_args_=[conv, L(nn.ReLU)()])
        """,
        leaf="""
        from torch import nn
        from detrex_lite.config import LazyCall as L
        from .base import model
        model._args_[0]._target_ = nn.Conv1d
        model._args_[1] = L(nn.Softmax)(dim=-1)
        """,
    )
    model = instantiate(LazyConfig.load(root / "leaf.py").model)
    assert [type(layer).__name__ for layer in model] == ["Conv1d", "Softmax"]


def test_load_rel_is_relative_to_the_calling_file(write):
    root = write(
        base="a = dict(x=1)",
        runs__leaf="from detrex_lite.config import LazyConfig\na = LazyConfig.load_rel('../base.py', 'a')",
    )
    assert LazyConfig.load(root / "runs/leaf.py").a.x == 1


def test_yaml_files_are_loaded(tmp_path):
    file = tmp_path / "a.yaml"
    file.write_text("train: {lr: 1e-4, x: '${.lr}'}")
    assert LazyConfig.load(file).train.x == 1e-4
    assert LazyConfig.load(file, "train").lr == 1e-4


def test_malformed_yaml_raises_with_the_line(tmp_path):
    file = tmp_path / "a.yaml"
    file.write_text("a: [1")
    with pytest.raises(ConfigError, match=r"a\.yaml, line 1 .*YAML"):
        LazyConfig.load(file)


def test_a_missing_file_suggests_the_nearest_name(write):
    root = write(train="")
    with pytest.raises(ConfigError, match=r"no config file '.*trian\.py'.*'.*train\.py'"):
        LazyConfig.load(root / "trian.py")


def test_a_missing_key_suggests_the_nearest_name(write):
    root = write(a="model = dict(x=1)")
    with pytest.raises(ConfigError, match="defines no 'modle'; did you mean 'model'"):
        LazyConfig.load(root / "a.py", ("model", "modle"))


def test_files_with_other_endings_raise(tmp_path):
    (tmp_path / "a.json").write_text("{}")
    with pytest.raises(ConfigError, match=r"must end in \.py, \.yaml or \.yml"):
        LazyConfig.load(tmp_path / "a.json")


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (
            "from .bsae import a",
            r"leaf\.py: .*'\.bsae', .*bsae\.py; did you mean 'base'",
        ),
        ("from .base import aa", r"leaf\.py: .*base\.py defines no 'aa'"),
        ("from .folder import x", r"'\.folder' is a folder"),
        ("from . import base", r"'\.' is a folder"),
        ("from .leaf import a", r"cycle: .*leaf\.py -> .*leaf\.py"),
    ],
)
def test_faulty_imports_raise(write, source, message):
    root = write(base="a = dict(x=1)", folder__x="", leaf=source)
    with pytest.raises(ConfigError, match=message):
        LazyConfig.load(root / "leaf.py")


def test_a_faulty_import_is_also_an_import_error(write):
    root = write(leaf="try:\n    from .gone import a\nexcept ImportError:\n    a = dict(x=2)")
    assert LazyConfig.load(root / "leaf.py").a.x == 2


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("x = 1\ny = nothing", r"a\.py, line 2: NameError: .*'nothing'[^(]*$"),
        ("import no_such_package.parts", r"a\.py, line 1: ModuleNotFoundError: .*'no_such_package'[^(]*$"),
        ("from .broken import x", r"broken\.py, line 3: NameError: .*'nothing'[^(]*$"),
        ("from math import tau, tow", r"a\.py, line 1: ImportError: .*'tow'(?!.*raised in)"),
        ("def f():\n    return 1 / 0\nx = f()", r"a\.py, line 2: ZeroDivisionError: division by zero$"),
        ("import json\njson.loads('{')", r"a\.py, line 2: JSONDecodeError: .* \(raised in .*decoder\.py, line \d+\)$"),
        (
            "from detrex_lite.configs.common.train import train\ntrain.amp = 1\ntrain.amp.enabled = True",
            r"a\.py, line 3: AttributeError: .*enabled",
        ),
    ],
)
def test_errors_in_a_config_file_name_its_line(write, source, message):
    root = write(a=source, broken="\n\nx = nothing")
    with pytest.raises(ConfigError, match=message) as caught:
        LazyConfig.load(root / "a.py")
    cause = caught.value.__cause__
    assert cause is not None
    assert isinstance(caught.value, ImportError) == isinstance(cause, ImportError)


def test_errors_of_config_files_show_a_traceback_on_request(write, capsys):
    root = write(a="x = 1\ny = nothing")
    outputs = []
    for with_traceback in (False, True):
        with pytest.raises(SystemExit), clear_errors(with_traceback=with_traceback):
            LazyConfig.load(root / "a.py")
        outputs.append(capsys.readouterr().err)
    assert len(outputs[0].splitlines()) == 1
    assert "NameError" in outputs[0]
    assert "y = nothing" in outputs[1]


@pytest.fixture
def shipped(write, monkeypatch):
    """Write a package folder with configs and projects, as in the wheel, and use it as the installed one."""
    import detrex_lite

    root = write(
        configs__common__base="train = dict(max_iter=1)",
        projects__net__configs__small="""
        from detrex_lite.configs.common.base import train
        train.max_iter += 1
        """,
        setup="secret = dict(x=1)",
    )
    monkeypatch.setattr(detrex_lite, "SHIPPED_IN", root)
    return root


def test_get_config_finds_shipped_files(shipped, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path.parent)
    assert get_config("common/base.py").train.max_iter == 1
    assert get_config("projects/net/configs/small.py").train.max_iter == 2
    assert LazyConfig.load("projects/net/configs/small.py", "train").max_iter == 2
    assert LazyConfig.load("configs/common/base.py").train.max_iter == 1


def test_shipped_configs_imported_by_full_name_are_not_shared(shipped):
    for _ in range(2):
        assert get_config("projects/net/configs/small.py").train.max_iter == 2


def test_configs_can_be_imported_in_python():
    command = """
from detrex_lite.projects.detr.configs.detr_r50_custom import dataset, model, train
model.num_classes, train.max_iter, dataset.train_images = 3, 1, "images"
from detrex_lite.projects.detr.configs.detr_r50_custom import train
assert train.max_iter != 1
from detrex_lite.configs.common.train import *
train.amp.enabled = True
try:
    from detrex_lite.configs.common.train import nothing
except ImportError as error:
    assert "nothing" in str(error)
else:
    raise AssertionError
"""
    subprocess.run([sys.executable, "-c", command], check=True)


def test_importing_configs_without_the_package_name_raises(write):
    root = write(leaf="from configs.common.train import train")
    with pytest.raises(ImportError, match="not configs but detrex_lite.configs"):
        LazyConfig.load(root / "leaf.py")


def test_get_config_suggests_the_nearest_name(shipped):
    with pytest.raises(ConfigError, match=r"no config 'common/bsae\.py'.*did you mean 'common/base\.py'"):
        get_config("common/bsae.py")
    with pytest.raises(ConfigError, match=r"no config 'setup\.py'"):
        get_config("setup.py")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("empty.yaml", b"", r"empty\.yaml is empty"),
        ("comment.yaml", b"# nothing\n", r"comment\.yaml is empty"),
        ("scalar.yaml", b"5", r"scalar\.yaml .*single value"),
        ("list.yaml", b"- a\n- b\n", r"list\.yaml .*a list"),
        ("latin.yaml", b"a: 1\nb: caf\xe9\n", r"latin\.yaml, line 2 is not UTF-8"),
        ("nul.yaml", b"a: 1\0\n", r"nul\.yaml .*not a YAML"),
        ("tag.yaml", b"a: !!python/object/apply:os.system [ls]", r"tag\.yaml, line 1 .*not a YAML"),
        (
            "checkpoint.yaml",
            b"train: {trust_init_checkpoint: true}",
            r"train\.trust_init_checkpoint=True is not allowed",
        ),
        (
            "indirect.yaml",
            b"y: true\ntrain: {trust_init_checkpoint: '${y}'}",
            r"trust_init_checkpoint=.* not allowed",
        ),
        ("syntax.py", b"a = 1\nb = (\n", r"syntax\.py, line 2: .*never closed"),
        ("latin.py", b"a = 1\nb = 'caf\xe9'\n", r"latin\.py, line \d: .*utf-8"),
        ("nul.py", b"a = 1\0\n", r"nul\.py.*null bytes"),
        ("exit.py", b"import sys\nsys.exit(0)\n", r"exit\.py exits \(sys\.exit\(0\)\)"),
        ("names.py", b"train = dict(trusted='mine')", r"names\.py: train\.trusted='mine' must be a list"),
    ],
)
def test_files_that_are_not_configs_raise(name, content, message, tmp_path):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ConfigError, match=message) as caught:
        LazyConfig.load(tmp_path / name)
    assert "\n" not in str(caught.value)


def test_a_folder_raises_and_lists_its_configs(write):
    root = write(a="", b="")
    with pytest.raises(ConfigError, match=r"is a folder.* a\.py, b\.py"):
        LazyConfig.load(root)


def test_byte_order_marks_and_encoding_declarations_are_respected(tmp_path):
    (tmp_path / "mark.py").write_bytes(b"\xef\xbb\xbfa = dict(x='\xc3\xa9')")
    (tmp_path / "mark.yaml").write_bytes(b"\xef\xbb\xbfa: {x: \xc3\xa9}")
    (tmp_path / "latin.py").write_bytes(b"# coding: latin-1\na = dict(x='\xe9')")
    for name in ("mark.py", "mark.yaml", "latin.py"):
        assert LazyConfig.load(tmp_path / name) == {"a": {"x": "é"}}


def test_modules_next_to_a_config_are_found_last(write, monkeypatch):
    monkeypatch.setattr("sys.path", list(sys.path))
    root = write(
        module_next_to_a_config="class Part: pass",
        json="raise AssertionError('this is not the json of Python')",
        leaf="""
        from json import dumps
        from module_next_to_a_config import Part
        from detrex_lite.config import LazyCall as L
        part = L(Part)()
        """,
    )
    cfg = LazyConfig.load(root / "leaf.py")
    LazyConfig.save(cfg, root / "saved.yaml")
    with pytest.raises(ConfigError, match="--trust module_next_to_a_config"):
        instantiate(LazyConfig.load(root / "saved.yaml"))
    assert type(instantiate(cfg)["part"]).__name__ == "Part"


def test_paths_expand_the_home_folder(write, monkeypatch):
    monkeypatch.setenv("HOME", str(write(a="part = dict(x=1)")))
    cfg = LazyConfig.load("~/a.py")
    assert cfg.part.x == 1
    LazyConfig.save(cfg, "~/saved.yaml")
    assert LazyConfig.load("~/saved.yaml") == cfg
    with pytest.raises(ConfigError, match=r"no config file '~nobody-is-called-so/a\.py'"):
        LazyConfig.load("~nobody-is-called-so/a.py")
