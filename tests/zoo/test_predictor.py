import numpy as np
import pytest

import detrex_lite
from detrex_lite.inference import Predictor
from detrex_lite.zoo import ZooError

IMAGE = np.full((48, 64, 3), 200, dtype=np.uint8)


def test_a_name_gives_a_predictor(small_zoo):
    settings = dict(tables=[small_zoo.table], device="cpu", score_threshold=0.0)
    predictor = detrex_lite.load("small_dino", **settings)
    assert isinstance(predictor, Predictor)
    assert predictor.class_names == ("circle", "square", "triangle")
    found = predictor(IMAGE)
    assert len(found) > 0

    # A file in place of the download gives the same, offline.
    file = small_zoo.folder / "own.pth"
    file.write_bytes(small_zoo.checkpoints["dino"])
    small_zoo.server.files.clear()
    again = detrex_lite.load("small_dino", weights=file, **settings)(IMAGE)
    assert again.scores.equal(found.scores)
    fewer = detrex_lite.load("small_dino", weights=file, overrides=["model.postprocessor.num_detections=2"], **settings)
    assert len(fewer(IMAGE)) == 2


def test_an_unknown_name_is_told():
    with pytest.raises(ZooError, match="did you mean 'detr_r50_500ep'"):
        detrex_lite.load("detr_r50_500")


def test_it_is_an_attribute_of_the_package():
    assert "load" in dir(detrex_lite)
