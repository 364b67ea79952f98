import pytest

from detrex_lite import cli
from detrex_lite.data import find_dataset

from ..data.layouts import samples


def test_a_folder_is_converted_to_another_layout(tmp_path, capsys):
    root = samples.yolo(tmp_path / "animals")
    assert cli.main(["convert", str(root), str(tmp_path / "out"), "--to", "voc"]) == 0
    out = capsys.readouterr().out
    for part in ("animals: YOLO", "Category ids change: cat 0 -> 1, dog 1 -> 2", "train 2 images, val 2 images"):
        assert part in out
    assert find_dataset(tmp_path / "out").layout == "Pascal VOC"
    assert cli.main(["convert", str(root), str(tmp_path / "out"), "--to", "csv"]) == 2
    assert "is not empty" in capsys.readouterr().err
    assert cli.main(["convert", str(tmp_path / "nothing"), str(tmp_path / "other"), "--to", "csv"]) == 2
    assert "does not exist" in capsys.readouterr().err


def test_masks_for_a_layout_of_boxes_are_rejected(capsys):
    with pytest.raises(SystemExit) as exit_info:
        cli.main(["convert", "photos", "out", "--to", "voc", "--masks"])
    assert exit_info.value.code == 2
    assert "voc has boxes only" in capsys.readouterr().err
