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


def test_ground_truth_is_drawn_left_of_detections(tmp_path):
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


def test_detections_with_low_scores_are_not_drawn(tmp_path):
    pixels = np.asarray(Image.open(contact_sheet([row(96, 96, score=0.3)], tmp_path / "sheet.png")))
    assert has_colour(pixels, 0)
    assert not has_colour(pixels, 2)


def test_sheet_size_follows_from_columns_and_image_heights(tmp_path):
    def size(rows, **options):
        with Image.open(contact_sheet(rows, tmp_path / "sheet.png", panel_size=100, **options)) as image:
            return image.size

    one_row, two_rows, three_rows = (size([row(50, 50)] * n) for n in (1, 2, 3))
    assert two_rows[0] > one_row[0]
    assert two_rows[1] == one_row[1]
    assert three_rows[0] == two_rows[0]
    assert three_rows[1] > two_rows[1]
    assert size([row(50, 50)] * 3, columns=1) == (one_row[0], one_row[1] + 2 * (three_rows[1] - two_rows[1]))
    assert size([row(200, 100)])[1] == one_row[1] - 50


def test_arrays_tensors_and_pil_images_give_the_same_sheet(tmp_path):
    image, truth, detections, _ = row(60, 40)
    contact_sheet([(np.asarray(image), truth, detections)], tmp_path / "array.png", class_names=["owl"])
    tensor = torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1)
    contact_sheet([(tensor, truth, detections)], tmp_path / "tensor.png", class_names=["owl"])
    contact_sheet([(image, truth, detections)], tmp_path / "pil.png", class_names=["owl"])
    assert (tmp_path / "array.png").read_bytes() == (tmp_path / "pil.png").read_bytes()
    assert (tmp_path / "tensor.png").read_bytes() == (tmp_path / "pil.png").read_bytes()


def test_a_sheet_without_rows_raises_an_error(tmp_path):
    with pytest.raises(ValueError, match="at least one image"):
        contact_sheet([], tmp_path / "sheet.png")


def test_masks_and_segments_are_drawn_at_the_size_of_the_sheet(tmp_path):
    def sheet_pixels(sheet_row):
        with Image.open(contact_sheet([sheet_row], tmp_path / "sheet.png", panel_size=200)) as image:
            return np.asarray(image).astype(int)

    plain = row(100, 100)
    masks = torch.zeros(1, 100, 100, dtype=torch.bool)
    masks[:, 30:70, 30:70] = True
    plain_sheet = sheet_pixels(plain)
    plain.ground_truth.gt_masks, plain.detections.pred_masks = masks, masks
    half = plain_sheet.shape[1] // 2
    changed = (sheet_pixels(plain) != plain_sheet).any(axis=-1)
    for half_sheet in (changed[:, :half], changed[:, half:]):
        assert half_sheet.sum() == pytest.approx(80 * 80, rel=0.05)

    ids = masks[0].int() * 5
    segment_sheet = sheet_pixels(plain._replace(detections=(ids, [{"id": 5, "category_id": 4}])))
    assert has_colour(segment_sheet[:, half:], 4)
    assert not has_colour(segment_sheet[:, half:], 2)
