import re

import pytest

from detrex_lite import SHIPPED_IN
from detrex_lite.zoo import ZooError, find_entry, load_zoo, read_table, select


def test_additional_tables_follow_those_of_the_projects(small_zoo):
    zoo = load_zoo([small_zoo.table])
    assert list(zoo)[-5:] == ["small_detr", "small_deformable_detr", "small_dino", "by_hand", "missing"]
    assert zoo["small_dino"].project == "mine"
    assert zoo["small_dino"].folder == small_zoo.folder
    assert zoo["dino_r50_4scale_12ep"].project == "dino"


def test_select_accepts_names_projects_and_all(small_zoo):
    zoo = load_zoo([small_zoo.table])
    names = [entry.name for entry in select(zoo, ["small_dino", "mine", "dino_r50_4scale_12ep"])]
    assert names == [
        "small_dino",
        "small_detr",
        "small_deformable_detr",
        "by_hand",
        "missing",
        "dino_r50_4scale_12ep",
    ]
    assert select(zoo, ["all"]) == list(zoo.values())


@pytest.mark.parametrize(
    ("name", "hint"), [("dino_r50_4scale_12", "did you mean 'dino_r50_4scale_12ep'"), ("yolo", "zoo list")]
)
def test_the_error_for_an_unknown_name_has_a_hint(name, hint):
    zoo = load_zoo()
    for function in (find_entry, lambda zoo, name: select(zoo, [name])):
        with pytest.raises(ZooError, match=f"no published checkpoint '{name}'.*{hint}"):
            function(zoo, name)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("import nothing_like_it", "does not run .ModuleNotFoundError"),
        ("ENTRIES = ['dino']", "must define ENTRIES, a tuple of ZooEntry"),
        ("", "must define ENTRIES"),
        ("from detrex_lite.zoo import detrex\nENTRIES = (detrex('https://a.b')('No', 'a', 1, 1.0, 'a'),)", "name='No'"),
    ],
)
def test_a_faulty_table_raises_an_error(tmp_path, text, message):
    (tmp_path / "zoo.py").write_text(text)
    with pytest.raises(ZooError, match=f"zoo.py.*{message}"):
        read_table(tmp_path / "zoo.py")


def test_a_missing_table_and_a_repeated_name_raise_an_error(small_zoo, tmp_path):
    with pytest.raises(ZooError, match="no table of checkpoints.*nowhere.py"):
        read_table(tmp_path / "nowhere.py")
    with pytest.raises(ZooError, match="the name 'small_detr' is taken"):
        load_zoo([small_zoo.table, small_zoo.table])


def test_the_table_of_the_guide_is_read(tmp_path):
    guide = (SHIPPED_IN / "docs" / "zoo.md").read_text()
    (tmp_path / "zoo.py").write_text(re.search(r"```python\n(from detrex_lite\.zoo.*?)```", guide, re.DOTALL)[1])
    first, second = read_table(tmp_path / "zoo.py")
    assert first.url == "https://example.org/models/my_dino_12ep.pth"
    assert first.config_file == tmp_path / "configs" / "my_dino_12ep.py"
    assert second.overrides == ("model.num_queries=300",)
