import numpy as np
import pytest

import detrex_lite
from detrex_lite.inference import Predictor
from detrex_lite.zoo import ZooError

IMAGE = np.full((48, 64, 3), 200, dtype=np.uint8)


def test_load_returns_the_predictor_of_a_name(small_zoo):
    settings = dict(tables=[small_zoo.table], device="cpu", score_threshold=0.0)
    predictor = detrex_lite.load("small_dino", **settings)
    assert isinstance(predictor, Predictor)
    assert predictor.class_names == ("circle", "square", "triangle")
    detections = predictor(IMAGE)
    assert len(detections) > 0

    # A local file instead of the download gives the same detections, offline.
    file = small_zoo.folder / "custom.pth"
    file.write_bytes(small_zoo.checkpoints["dino"])
    small_zoo.server.files.clear()
    from_file = detrex_lite.load("small_dino", weights=file, **settings)(IMAGE)
    assert from_file.scores.equal(detections.scores)
    limited = detrex_lite.load(
        "small_dino", weights=file, overrides=["model.postprocessor.num_detections=2"], **settings
    )
    assert len(limited(IMAGE)) == 2


def test_the_error_for_an_unknown_name_suggests_the_closest():
    with pytest.raises(ZooError, match="did you mean 'detr_r50_500ep'"):
        detrex_lite.load("detr_r50_500")


def test_load_is_an_attribute_of_the_package():
    assert "load" in dir(detrex_lite)
