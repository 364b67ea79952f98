import pytest

from detrex_lite import cli
from detrex_lite.data import generate_shapes

from ..data.layouts import samples
from ..data.samples import box_entry, write_coco, write_image, write_same_content_twice


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path_factory, monkeypatch):
    monkeypatch.chdir(tmp_path_factory.mktemp("working"))  # pages of faults are written to the working folder


def main(arguments):
    return cli.main(["check", *arguments])


def test_a_clean_data_set_exits_with_status_0(tmp_path, capsys):
    path, root = write_coco(tmp_path, annotations=[box_entry(1, 1, [0, 0, 5, 5])])
    write_image(root / "1.png")
    assert main(["--coco", str(path), "--images", str(root)]) == 0
    assert "no faults" in capsys.readouterr().out


def test_images_next_to_a_roboflow_file_are_found(tmp_path, capsys):
    root = samples.roboflow(tmp_path)
    assert main(["--coco", str(root / "train/_annotations.coco.json")]) == 0
    out = capsys.readouterr().out
    assert out.startswith("train: 2 images")
    assert "classes without a box: animals" in out


def test_faults_exit_with_status_1_in_both_formats(tmp_path, capsys):
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
    assert "object 1 (dog): the box (9, 9, 10, 30)" not in capsys.readouterr().out  # one-based, the box has an area


def test_masks_and_panoptic_files_are_checked(tmp_path, capsys):
    root = generate_shapes(tmp_path / "shapes", num_train=2, num_val=3, image_size=32)
    images = ["--images", str(root / "images/val")]
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


def test_an_unknown_name_exits_with_status_2(capsys):
    assert main(["--name", "coco_2017_vall"]) == 2
    assert "did you mean 'coco_2017_val'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--voc", "annotations"], "--panoptic and --voc need --images"),
        (["--coco", "a.json", "--images", "i", "--segments", "s"], "--segments goes with --panoptic"),
        (["--voc", "a", "--images", "i", "--masks"], "--masks goes with FOLDER, --coco and --name"),
        (["--coco", "a.json", "--images", "i", "--split", "s"], "--split and --one-based go with --voc"),
        (["photos", "--images", "i"], "--images goes with --coco, --panoptic and --voc"),
        (["photos", "--name", "coco_2017_val"], "FOLDER and --name are two data sets"),
        (["--name", "coco_2017_val", "--seed", "1"], "--seed goes with FOLDER"),
        ([], "one of FOLDER, --coco, --panoptic, --voc and --name is required"),
    ],
)
def test_contradictory_arguments_are_reported(arguments, message, capsys):
    with pytest.raises(SystemExit) as exit_info:
        main(arguments)
    assert exit_info.value.code == 2
    assert message in capsys.readouterr().err


def test_faults_of_a_folder_are_printed_and_drawn_on_a_page(tmp_path, capsys):
    root = samples.yolo(tmp_path / "animals")
    assert main([str(root)]) == 0
    out = capsys.readouterr().out
    for part in ("animals: YOLO", "animals_train: 2 images, 3 usable boxes", "'dog' has no box in val", "no faults"):
        assert part in out
    (root / "labels/train/a.txt").write_text("0 0.5 0.5 0.2\n1 0.95 0.5 0.3 0.2\n0 0.2 0.2 0.1 0.1\n")
    image = root / "images/valid/d.png"
    image.write_bytes(image.read_bytes()[:-30])
    (root / "images/valid/e.png").write_bytes((root / "images/train/b.png").read_bytes())
    assert main([str(root), "--page", str(tmp_path / "pages/faults.html")]) == 1
    out = capsys.readouterr().out
    for part in (
        f"{root / 'labels/train/a.txt'}: line 1: a line must be",
        "partly outside the image: 1",
        "image unreadable: 1",
        f"images/valid/e.png: this image of val has the same contents as {root / 'images/train/b.png'} of train",
        "4 faults",
    ):
        assert part in out
    page = (tmp_path / "pages/faults.html").read_text()
    assert page.count("<figure>") == 4
    assert page.count("data:image/jpeg;base64,") == 4


def test_folders_without_a_data_set_are_checked_as_images(tmp_path, capsys):
    assert main([str(tmp_path / "nowhere")]) == 2
    assert "nowhere does not exist" in capsys.readouterr().err
    write_image(tmp_path / "photos/1.png")
    assert main([str(tmp_path / "photos")]) == 0
    assert "no annotations" in capsys.readouterr().out
    (tmp_path / "photos/2.png").write_bytes(b"broken")
    assert main([str(tmp_path / "photos")]) == 1
