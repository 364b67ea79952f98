import numpy as np
import pytest
import torch
from PIL import Image

from detrex_lite.structures import Boxes, Instances
from detrex_lite.visualization import SheetRow, class_colour, contact_sheet


def row(width, height, caption="", score=0.9):
    box = Boxes(torch.tensor([[width * 0.25, height * 0.25, width * 0.75, height * 0.75]]))
    return SheetRow(
        Image.new("RGB", (width, height), (128, 128, 128)),
        Instances((height, width), gt_boxes=box, gt_classes=torch.tensor([0])),
        Instances((height, width), pred_boxes=box, pred_classes=torch.tensor([2]), scores=torch.tensor([score])),
        caption,
    )


def has_colour(pixels, class_index):
    return (pixels == np.array(class_colour(class_index))).all(axis=-1).any()


def test_ground_truth_stands_left_of_detections(tmp_path):
    path = contact_sheet([row(96, 96, "a.png")], tmp_path / "new" / "sheet.png", panel_size=200)
    assert path == tmp_path / "new" / "sheet.png"
    with Image.open(path) as image:
        assert image.format == "PNG"
        pixels = np.asarray(image)
    half = pixels.shape[1] // 2
    assert has_colour(pixels[:, :half], 0)
    assert not has_colour(pixels[:, half:], 0)
    assert has_colour(pixels[:, half:], 2)
    assert not has_colour(pixels[:, :half], 2)


def test_low_scores_are_left_out(tmp_path):
    pixels = np.asarray(Image.open(contact_sheet([row(96, 96, score=0.3)], tmp_path / "sheet.png")))
    assert has_colour(pixels, 0)
    assert not has_colour(pixels, 2)


def test_rows_fill_the_columns_and_lines_are_as_high_as_their_images(tmp_path):
    def size(rows, **options):
        with Image.open(contact_sheet(rows, tmp_path / "sheet.png", panel_size=100, **options)) as image:
            return image.size

    one, two, three = (size([row(50, 50)] * n) for n in (1, 2, 3))
    assert two[0] > one[0]
    assert two[1] == one[1]
    assert three[0] == two[0]
    assert three[1] > two[1]
    assert size([row(50, 50)] * 3, columns=1) == (one[0], one[1] + 2 * (three[1] - two[1]))
    assert size([row(200, 100)])[1] == one[1] - 50


def test_tuples_of_other_image_kinds_are_taken(tmp_path):
    image, truth, found, _ = row(60, 40)
    contact_sheet([(np.asarray(image), truth, found)], tmp_path / "array.png", class_names=["owl"])
    tensor = torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1)
    contact_sheet([(tensor, truth, found)], tmp_path / "tensor.png", class_names=["owl"])
    contact_sheet([(image, truth, found)], tmp_path / "pil.png", class_names=["owl"])
    assert (tmp_path / "array.png").read_bytes() == (tmp_path / "pil.png").read_bytes()
    assert (tmp_path / "tensor.png").read_bytes() == (tmp_path / "pil.png").read_bytes()


def test_no_rows_are_refused(tmp_path):
    with pytest.raises(ValueError, match="at least one image"):
        contact_sheet([], tmp_path / "sheet.png")


def test_masks_and_segments_are_drawn_at_the_size_of_the_sheet(tmp_path):
    def sheet(one):
        with Image.open(contact_sheet([one], tmp_path / "sheet.png", panel_size=200)) as image:
            return np.asarray(image).astype(int)

    plain = row(100, 100)
    masks = torch.zeros(1, 100, 100, dtype=torch.bool)
    masks[:, 30:70, 30:70] = True
    plain_sheet = sheet(plain)
    plain.ground_truth.gt_masks, plain.detections.pred_masks = masks, masks
    half = plain_sheet.shape[1] // 2
    changed = (sheet(plain) != plain_sheet).any(axis=-1)
    for side in (changed[:, :half], changed[:, half:]):
        assert side.sum() == pytest.approx(80 * 80, rel=0.05)

    ids = masks[0].int() * 5
    found = sheet(plain._replace(detections=(ids, [{"id": 5, "category_id": 4}])))
    assert has_colour(found[:, half:], 4)
    assert not has_colour(found[:, half:], 2)
