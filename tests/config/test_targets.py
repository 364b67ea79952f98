import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from detrex_lite.config import ConfigError, LazyConfig, locate, trust, validate
from detrex_lite.config.targets import accepted_names, argument_faults, describe, dotted_name


class Holder:
    @classmethod
    def make(cls):
        return cls()


@pytest.mark.parametrize(
    ("target", "name"),
    [
        (nn.Linear, "torch.nn.Linear"),
        (torch.optim.AdamW, "torch.optim.AdamW"),
        (torch.relu, "torch.relu"),
        (Holder, f"{__name__}.Holder"),
        (Holder.make, f"{__name__}.Holder.make"),
        (dict, "builtins.dict"),
    ],
)
def test_locate_inverts_dotted_name(target, name):
    assert dotted_name(target) == name
    assert locate(name) == target


def test_objects_without_a_path_have_no_dotted_name():
    class Local:
        pass

    for target in (lambda: 1, Local, nn.ReLU(), 3):
        assert dotted_name(target) is None
        assert describe(target) == repr(target)


def test_a_function_is_preferred_to_a_module_of_the_same_name(tmp_path, monkeypatch):
    package = tmp_path / "shadowed_package"
    package.mkdir()
    (package / "__init__.py").write_text("from .thing import thing")
    (package / "thing.py").write_text("def thing(): pass\ndef other(): pass")
    monkeypatch.syspath_prepend(tmp_path)
    trust("shadowed_package")
    assert locate("shadowed_package.thing").__name__ == "thing"
    assert locate("shadowed_package.thing.other").__name__ == "other"


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("Linear", "'Linear' is not a dotted path such as"),
        ("torch..nn", r"'torch\.\.nn' is not a dotted path"),
        ("torch.nn.Linea", r"torch\.nn has no attribute 'Linea'; did you mean 'Linear'\?"),
        ("torch.nnn.Linear", r"torch has no attribute 'nnn'; did you mean 'nn'\?"),
        ("torch.nn.Linear.forwrd", r"torch\.nn\.Linear has no attribute 'forwrd'; did you mean 'forward'\?"),
        (
            "detrex_lite.strcutures.Boxes",
            r"detrex_lite has no attribute 'strcutures'; did you mean 'structures'\?",
        ),
        ("no_such_module_anywhere.x", "there is no module 'no_such_module_anywhere'"),
        ("layers.FFN", r"'layers\.FFN': did you mean 'detrex_lite\.layers\.FFN'\?"),
        ("detrex_lite.projcts.detr", r"detrex_lite has no attribute 'projcts'; did you mean 'projects'\?"),
    ],
)
def test_unknown_paths_raise_and_suggest_the_nearest(path, message):
    with pytest.raises(ConfigError, match=message):
        locate(path)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (
            "import missing_dependency",
            "importing broken_module failed: ModuleNotFoundError: .*missing_dependency",
        ),
        ("1 / 0", "importing broken_module failed: ZeroDivisionError"),
    ],
)
def test_a_module_that_fails_to_import_is_named_with_the_error(tmp_path, monkeypatch, source, message):
    (tmp_path / "broken_module.py").write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "broken_module", raising=False)
    trust("broken_module")
    with pytest.raises(ConfigError, match=message):
        locate("broken_module.x")


def test_functions_without_a_signature_accept_everything():
    assert accepted_names(dict.update) == []
    assert argument_faults(int.from_bytes, ["a"]) != {}
    assert argument_faults(max, ["anything"], positional=9) == {}


@pytest.mark.parametrize("in_the_clone", [True, False])
def test_projects_without_the_package_name_suggest_the_full_name(in_the_clone, tmp_path, monkeypatch):
    root = Path(__file__).resolve().parents[2]
    monkeypatch.setattr(sys, "path", [path for path in sys.path if Path(path).resolve() != root])
    monkeypatch.chdir(root if in_the_clone else tmp_path)
    monkeypatch.syspath_prepend("")
    config = tmp_path / "config.yaml"
    config.write_text("model: {_target_: projects.detr.modeling.DETR}")
    with pytest.raises(
        ConfigError, match=r"model\._target_: .* did you mean 'detrex_lite\.projects\.detr\.modeling\.DETR'"
    ):
        validate(LazyConfig.load(config))
