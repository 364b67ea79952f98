"""Names of models on the command line."""

import pytest

import detrex_lite
from detrex_lite.cli.models import is_config_file, shipped_names
from detrex_lite.zoo import load_zoo

PROJECTS = detrex_lite.SHIPPED_IN / "projects"


def test_every_project_has_a_published_training_config():
    names = shipped_names()
    assert set(names.projects) == {card.parent.name for card in PROJECTS.glob("*/card.py")}
    for project in names.projects:
        file = names.config_of(project)
        assert file.parent == PROJECTS / project / "configs"
        assert file.stem.endswith("ep")  # published schedules end in the number of epochs


@pytest.mark.parametrize(
    ("name", "stem"),
    [
        ("dino", "dino_r50_4scale_12ep"),
        ("dino_r50", "dino_r50_4scale_12ep"),
        ("dino_r50_4scale_36ep", "dino_r50_4scale_36ep"),
        ("dino_small", "dino_small_shapes"),
        ("rtdetrv2_r18", "rtdetrv2_r18_120ep"),
        ("dfine_n", "dfine_n_160ep"),
        ("rtdetrv2_small", "rtdetr_small_shapes"),
    ],
)
def test_names_resolve_to_training_configs(name, stem):
    assert shipped_names().config_of(name).stem == stem


def test_other_names_resolve_to_no_config():
    names = shipped_names()
    assert names.config_of("yolo") is None
    assert names.config_of("dino_r50_4scale_12ep_ema") is None  # the name of a checkpoint, not of a config
    assert names.checkpoints >= set(load_zoo())
    assert not names.checkpoints & set(names.projects)
    assert names.is_model_only("dino")
    assert not names.is_model_only("dfine_n")
    assert is_config_file("a/b.yaml")
    assert not is_config_file("dino")
