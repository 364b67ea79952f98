import pytest

from detrex_lite import cli
from detrex_lite.data import generate_shapes

from ..data.samples import box_entry, write_coco, write_image, write_same_content_twice


def main(arguments):
    return cli.main(["check", *arguments])


def test_clean_data_set_exits_with_zero(tmp_path, capsys):
    path, root = write_coco(tmp_path, annotations=[box_entry(1, 1, [0, 0, 5, 5])])
    write_image(root / "1.png")
    assert main(["--coco", str(path), "--images", str(root), "--decode"]) == 0
    assert "no faults" in capsys.readouterr().out


def test_faults_exit_with_one_and_both_formats_agree(tmp_path, capsys):
    write_same_content_twice(tmp_path)
    images = ["--images", str(tmp_path / "images")]
    assert main(["--coco", str(tmp_path / "instances.json"), *images]) == 1
    coco = capsys.readouterr().out
    split = ["--split", str(tmp_path / "split.txt")]
    assert main(["--voc", str(tmp_path / "annotations"), *images, *split]) == 1
    voc = capsys.readouterr().out
    assert "2 faults" in coco
    counts = [text.splitlines()[1:10] for text in (coco, voc)]
    assert counts[0] == counts[1]
    assert main(["--voc", str(tmp_path / "annotations"), *images, "--one-based"]) == 1
    assert "object 1 (dog): the box (9, 9, 10, 30)" not in capsys.readouterr().out  # it has an area now


def test_masks_and_panoptic_files_are_checked(tmp_path, capsys):
    root = generate_shapes(tmp_path / "shapes", num_train=2, num_val=3, image_size=32)
    images = ["--images", str(root / "images/val"), "--decode"]
    instances = str(root / "annotations/val.json")
    assert main(["--coco", instances, *images, "--masks"]) == 0
    assert "masks: yes" in capsys.readouterr().out
    assert main(["--coco", instances, *images]) == 0
    assert "masks" not in capsys.readouterr().out
    panoptic = ["--panoptic", str(root / "annotations/panoptic_val.json"), *images]
    assert main([*panoptic, "--segments", str(root / "panoptic/val")]) == 0
    assert "masks: yes; classes of stuff: 1" in capsys.readouterr().out
    assert main(panoptic) == 1
    assert "panoptic folder" in capsys.readouterr().out


def test_unknown_name_exits_with_one(capsys):
    assert main(["--name", "coco_2017_vall"]) == 1
    assert "did you mean 'coco_2017_val'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--coco", "a.json"], "--coco, --panoptic and --voc need --images"),
        (["--coco", "a.json", "--images", "i", "--segments", "s"], "--segments goes with --panoptic"),
        (["--voc", "a", "--images", "i", "--masks"], "--masks goes with --coco and --name"),
        (["--coco", "a.json", "--images", "i", "--split", "s"], "--split and --one-based go with --voc"),
        ([], "one of the arguments --coco --panoptic --voc --name is required"),
    ],
)
def test_arguments_that_do_not_go_together(arguments, message, capsys):
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    assert message in capsys.readouterr().err
