import pytest
from omegaconf import OmegaConf

from detrex_lite.config import ConfigError, LazyConfig, validate
from detrex_lite.evaluation import table

CALL = "${detrex_lite.call:detrex_lite.evaluation.table.double}"


@pytest.fixture(autouse=True)
def double(monkeypatch):
    """Add the function that the configs of these tests call to a module of the package."""

    def double(cfg):
        return None if cfg.size is None else 2 * cfg.size

    double.__module__ = table.__name__
    monkeypatch.setattr(table, "double", double, raising=False)


def test_the_value_follows_changes_of_the_config():
    cfg = OmegaConf.create({"size": 3, "inner": {"twice": CALL, "same": "${.twice}"}})
    assert (cfg.inner.twice, cfg.inner.same) == (6, 6)
    cfg.size = 5
    assert cfg.inner.twice == 10
    cfg.size = None
    assert cfg.inner.twice is None
    cfg.inner.twice = 7
    assert cfg.inner.same == 7


def test_calls_are_printed_resolved_and_saved_unresolved(tmp_path):
    cfg = OmegaConf.create({"size": 3, "twice": CALL})
    assert "twice: 6" in LazyConfig.to_yaml(cfg, resolve=True)
    LazyConfig.save(cfg, tmp_path / "config.yaml")
    loaded = LazyConfig.load(tmp_path / "config.yaml")
    loaded.size = 4
    assert loaded.twice == 8


def test_an_unknown_function_is_a_fault():
    cfg = OmegaConf.create({"twice": "${detrex_lite.call:detrex_lite.evaluation.table.duoble}"})
    with pytest.raises(ConfigError, match=r"twice: .*has no attribute 'duoble'; did you mean 'double'\?"):
        validate(cfg)
