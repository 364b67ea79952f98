import dataclasses
import itertools
import json
import subprocess
import sys
from importlib import import_module

import numpy as np
import onnx
import pytest
import torch
from PIL import Image
from torch import nn
from torchvision.transforms import v2

import detrex_lite
from detrex_lite.config import LazyCall as L
from detrex_lite.data import ResizeShortestEdge, realtime_test_augmentation
from detrex_lite.inference import ExportedPredictor
from detrex_lite.inference.description import Description, ExportedFileError
from detrex_lite.inference.export import FORMATS, ExportError, export
from detrex_lite.inference.export.check import compare_detections, made_up_image, selection_difference
from detrex_lite.inference.exported import resized_size, select
from detrex_lite.inference.runtimes import open_session
from detrex_lite.modeling import NMS, MaskPostprocessor, Predictions, SoftmaxPostprocessor, TopKPostprocessor
from detrex_lite.modeling.deformable import highest, proposals, select_tokens_by
from detrex_lite.ops.deformable_attention import api as deformable_attention
from detrex_lite.structures import Boxes, Instances
from detrex_lite.testing import SMALL
from tests.suites import first_always

from .small_detectors import LARGE_CONFIGS, ROOT, SMALL_CONFIGS, small_predictor

DETR = ROOT / "projects/detr/configs/models/detr_small.py"
DINO = ROOT / "projects/dino/configs/models/dino_small.py"
_ALWAYS_TESTED = ("detr_small", "deformable_detr_small", "dino_small", "rtdetrv2_small", "dfine_small")
ONNX_CONFIGS = sorted(SMALL_CONFIGS, key=lambda path: path.stem not in _ALWAYS_TESTED)
SIZE = (96, 128)
# TorchScript needs no extra package and is fast to trace; ONNX has separate tests.
TORCHSCRIPT_FILE = "detector.torchscript"


@pytest.fixture(scope="module")
def detr():
    return small_predictor(DETR)


@pytest.fixture(scope="module")
def detr_onnx(detr, tmp_path_factory):
    path = tmp_path_factory.mktemp("exported") / "detr.onnx"
    return path, export(detr, path, size="dynamic", batch="dynamic")


def require_agreement(description, num_checks):
    assert len(description.differences) == num_checks
    for difference in description.differences:
        assert difference["compared"] > 0
        assert difference["scores"] <= 1e-4
        assert difference["boxes"] <= 0.5
        assert difference["selected"] <= 1e-4


def require_same_detections(actual, expected):
    """Compare the detections of an exported file and of torch in one image."""
    assert actual.image_size == expected.image_size
    assert len(actual) == len(expected) > 0
    np.testing.assert_allclose(actual.scores, expected.scores, atol=1e-4)
    np.testing.assert_array_equal(actual.pred_classes, expected.pred_classes)
    np.testing.assert_allclose(actual.pred_boxes.tensor, expected.pred_boxes.tensor, atol=0.5)


def test_every_project_has_a_detector_to_export():
    projects = {path.parent.name for path in ROOT.glob("projects/*/configs")}
    assert {path.parents[2].name for path in [*SMALL_CONFIGS, *LARGE_CONFIGS]} == projects
    assert all(path.is_file() for path in LARGE_CONFIGS)


@pytest.mark.parametrize("path", first_always(ONNX_CONFIGS, 2), ids=lambda path: path.stem)
def test_padded_batches_by_onnx_agree_with_torch(path, tmp_path):
    description = export(small_predictor(path), tmp_path / "detector.onnx", size=SIZE, batch=3, padded=True)
    require_agreement(description, 2)
    assert description.latency["exported"] > 0


@pytest.mark.parametrize(
    "path", first_always([*SMALL_CONFIGS, *LARGE_CONFIGS], len(SMALL_CONFIGS)), ids=lambda path: path.stem
)
def test_any_size_and_batch_with_padding_agrees_with_torch(path, tmp_path):
    require_agreement(
        export(small_predictor(path), tmp_path / TORCHSCRIPT_FILE, size="dynamic", batch="dynamic", padded=True), 6
    )


@pytest.mark.slow
@pytest.mark.parametrize("path", [*SMALL_CONFIGS, *LARGE_CONFIGS], ids=lambda path: path.stem)
@pytest.mark.parametrize("padded", [False, True])
def test_any_size_and_batch_by_onnx_agrees_with_torch(path, padded, tmp_path):
    predictor = small_predictor(path)
    description = export(predictor, tmp_path / "detector.onnx", size="dynamic", batch="dynamic", padded=padded)
    require_agreement(description, 6)


def test_a_detector_with_masks_from_attention_exports_its_boxes(tmp_path):
    path = ROOT / "projects/detr/configs/models/detr_r50_panoptic.py"
    predictor = small_predictor(path, **SMALL, postprocessor=L(SoftmaxPostprocessor)())
    require_agreement(export(predictor, tmp_path / TORCHSCRIPT_FILE, size="dynamic", batch="dynamic", padded=True), 6)


def test_detections_of_a_file_agree_with_the_predictor(detr, detr_onnx, tmp_path):
    path, description = detr_onnx
    require_agreement(description, 6)
    images = [made_up_image(120, 96, 1), made_up_image(96, 120, 2), made_up_image(120, 96, 3)]
    Image.fromarray(images[0]).save(tmp_path / "image.png")
    exported = ExportedPredictor(path, score_threshold=0.0, batch_size=3)
    assert exported.class_names == detr.class_names
    expected = detr(images)
    for actual, expected_detections in zip(exported(images), expected, strict=True):
        require_same_detections(actual, expected_detections)
    for kind in (tmp_path / "image.png", str(tmp_path / "image.png"), Image.fromarray(images[0])):
        require_same_detections(exported(kind), expected[0])
    in_bgr = ExportedPredictor(path, score_threshold=0.0, image_format="BGR")
    require_same_detections(in_bgr(images[0][..., ::-1]), expected[0])
    median_score = float(np.median(exported(images[0]).scores))
    selected = ExportedPredictor(path, score_threshold=median_score)(images[0])
    assert 0 < len(selected) < len(expected[0])
    assert selected.scores.min() >= median_score


@pytest.mark.parametrize("name", ["openvino", "torch.export", "torchscript"])
def test_files_of_every_format_agree_with_the_predictor(detr, name, tmp_path):
    path = tmp_path / f"detector{FORMATS[name].suffix}"
    require_agreement(export(detr, path, format=name, size=SIZE, batch=2), 2)
    images = [made_up_image(*SIZE, seed) for seed in range(3)]  # one more than the batch size of the file
    detections = ExportedPredictor(path, score_threshold=0.0, batch_size=3)(images)
    for actual, expected in zip(detections, detr(images), strict=True):
        require_same_detections(actual, expected)
    assert {file.suffix for file in tmp_path.iterdir()} == {file.suffix for file in FORMATS[name].files(path)}


@pytest.mark.parametrize("path", [DETR, DINO], ids=["softmax", "top_k"])
def test_preprocessing_and_postprocessing_outside_the_file_agree_with_the_predictor(path, tmp_path):
    predictor = small_predictor(path)
    description = export(predictor, tmp_path / TORCHSCRIPT_FILE, size=SIZE, preprocess="outside", postprocess="outside")
    require_agreement(description, 2)
    session = open_session(tmp_path / TORCHSCRIPT_FILE)
    outputs = session.run({"images": np.zeros((1, 3, *SIZE), np.float32)})
    assert outputs["boxes"].shape == (1, 25, 4)
    assert [value.shape for name, value in outputs.items() if "selected" in name] == [(1, 25)] * (path == DINO)
    images = [made_up_image(*SIZE, seed) for seed in range(2)]
    detections = ExportedPredictor(tmp_path / TORCHSCRIPT_FILE, score_threshold=0.0)(images)
    for actual, expected in zip(detections, small_predictor(path, resize=L(v2.Resize)(size=SIZE))(images), strict=True):
        require_same_detections(actual, expected)


def test_half_precision_and_8_bits_make_smaller_files(detr, tmp_path):
    sizes = {}
    for precision in ("fp32", "fp16", "int8"):
        path = tmp_path / f"{precision}.onnx"
        description = export(detr, path, size=64, precision=precision)
        sizes[precision] = path.stat().st_size
        assert all(difference["scores"] < description.score_limit for difference in description.differences)
    assert sizes["fp16"] < 0.6 * sizes["fp32"]
    assert sizes["int8"] < 0.9 * sizes["fp32"]  # the convolutions of the backbone are not quantised


def test_a_file_stores_its_description(detr_onnx):
    path, description = detr_onnx
    model = onnx.load(path)
    (stored,) = [entry.value for entry in model.metadata_props if entry.key == "detrex_lite"]
    assert json.loads(stored)["class_names"] == list(description.class_names)
    assert Description.from_json(stored, path).to_json() == description.to_json()
    assert len(description.category_ids) == len(description.class_names)
    without_category_ids = {name: value for name, value in json.loads(stored).items() if name != "category_ids"}
    assert Description.from_json(json.dumps(without_category_ids), path).category_ids == ()
    assert description.pixel_mean == pytest.approx([123.675, 116.28, 103.53])
    assert description.resize == {"kind": "shortest_edge", "short_edge_length": 96, "max_size": 160}
    assert description.latency.keys() >= {"eager", "exported", "images"}
    assert {entry.domain for entry in model.opset_import} <= {"", "ai.onnx"}
    assert {node.domain for node in model.graph.node} <= {"", "ai.onnx"}


def test_a_file_with_different_weights_raises_an_error(detr, tmp_path, monkeypatch):
    write = FORMATS["onnx"].write

    def write_wrongly(plan, path, description):
        write(plan, path, description)
        model = onnx.load(path)
        weights = max(model.graph.initializer, key=lambda tensor: len(tensor.raw_data))
        values = onnx.numpy_helper.to_array(weights).copy()
        values += 0.02
        weights.CopyFrom(onnx.numpy_helper.from_array(values, weights.name))
        onnx.save(model, path)

    monkeypatch.setattr(FORMATS["onnx"], "write", write_wrongly)
    with pytest.raises(ExportError, match="does not detect what DETR"):
        export(detr, tmp_path / "detr.onnx", size=64)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("faulty_call", "message"),
    [(0, "does not select .* DINO"), (1, "does not detect what DINO")],
)
def test_a_faulty_operator_raises_an_error(tmp_path, monkeypatch, faulty_call, message):
    """The faulty call is in the encoder layer, or in the first decoder layer."""
    calls = itertools.count()

    def shifted_by_half_a_cell(value, shapes, locations, weights):
        if next(calls) == faulty_call:
            locations = locations + 0.5 / max(shapes[0])
        return deformable_attention.deformable_attention_grid_sample(value, shapes, locations, weights)

    monkeypatch.setitem(deformable_attention.PLAIN, "grid_sample", shifted_by_half_a_cell)
    with pytest.raises(ExportError, match=message):
        export(small_predictor(DINO), tmp_path / TORCHSCRIPT_FILE, size=SIZE)
    assert next(calls) == 3
    assert list(tmp_path.iterdir()) == []


def reversed_ranks(scores, number):
    return highest(scores, number).flip(1)


def best_token_twice(scores, number):
    best = highest(scores, number)
    return torch.cat([best[:, :1], best[:, :-1]], dim=1)


def lowest_scores(scores, number):
    return highest(-scores, number)


def all_but_the_best(scores, number):
    return highest(scores, number + 1)[:, 1:]


@pytest.mark.parametrize(
    "wrong_selection",
    [
        reversed_ranks,
        all_but_the_best,
        pytest.param(best_token_twice, marks=pytest.mark.slow),
        pytest.param(lowest_scores, marks=pytest.mark.slow),
    ],
)
def test_a_wrong_token_selection_raises_an_error(tmp_path, monkeypatch, wrong_selection):
    """The order of tokens matters too, because the learned content of a query belongs to its rank."""
    monkeypatch.setattr(proposals, "highest", wrong_selection)  # in the exported graph
    with pytest.raises(ExportError, match="does not select .* DINO"):
        export(small_predictor(DINO), tmp_path / TORCHSCRIPT_FILE, size=SIZE)
    assert list(tmp_path.iterdir()) == []


def test_tokens_with_equal_scores_may_be_selected_in_any_order(tmp_path, monkeypatch):
    """All tokens have the same score, so the file is compared for the tokens that it selected."""
    predictor = small_predictor(DINO)
    nn.init.zeros_(predictor.model.heads.class_embed[-1].weight)
    nn.init.constant_(predictor.model.heads.class_embed[-1].bias, -2.0)
    image = made_up_image(*SIZE, 0)
    detections = predictor(image)
    with select_tokens_by(reversed_ranks):
        assert (predictor(image).pred_boxes.tensor - detections.pred_boxes.tensor).abs().max() > 5
    monkeypatch.setattr(proposals, "highest", reversed_ranks)
    description = export(predictor, tmp_path / TORCHSCRIPT_FILE, size="dynamic", batch="dynamic")
    require_agreement(description, 6)


def test_selection_difference_is_the_largest_relative_difference_of_scores():
    scores = torch.tensor([[4.0, -8.0, 2.0, 1.992], [1.0, 2.0, float("-inf"), float("-inf")]])
    best = torch.tensor([[0, 2], [1, 0]])
    for indices, expected in (
        ([[0, 2], [1, 0]], 0),
        ([[0, 3], [1, 0]], 0.001),
        ([[2, 0], [1, 0]], 0.25),
        ([[0, 2], [1, 2]], float("inf")),  # a token of the padding
        ([[0, 0], [1, 0]], float("inf")),
        ([[0, 4], [1, 0]], float("inf")),
        ([[0, -2], [1, 0]], float("inf")),
        ([[0], [1]], float("inf")),
    ):
        assert selection_difference(scores, torch.tensor(indices), best) == pytest.approx(expected, rel=1e-4)
    # When only padding is left, any of its tokens may be selected.
    scores = torch.tensor([[1.0, float("-inf"), float("-inf")]])
    assert selection_difference(scores, torch.tensor([[0, 2]]), torch.tensor([[0, 1]])) == 0
    assert selection_difference(scores * float("nan"), torch.tensor([[0, 2]]), torch.tensor([[0, 1]])) == float("inf")


@pytest.mark.parametrize(("above_the_end", "score", "boxes"), [(0.015, 0.015, 0), (0.03, 0, 80)])
def test_detections_at_the_score_limit_of_a_full_list_may_be_unmatched(above_the_end, score, boxes):
    """Two detections of one class in different positions count as different objects only near the last score."""

    def detections(x):
        corners = torch.tensor([[x, 0.0, x + 10, 10.0], [20.0, 20.0, 30.0, 30.0], [0.0, 0.0, 9.0, 9.0]])
        scores = torch.tensor([0.3 + above_the_end, 0.5, 0.3])
        return Instances((100, 100), pred_boxes=Boxes(corners), scores=scores, pred_classes=torch.tensor([1, 1, 2]))

    compared, *differences = compare_detections(
        detections(0.0), detections(80.0), tied=2e-3, limits=(0.02, 4.0), cut_off=True
    )
    assert compared == (1 if score else 2)
    assert differences == pytest.approx([score, boxes])


def test_an_existing_file_is_kept_when_the_export_fails(detr, tmp_path):
    (tmp_path / TORCHSCRIPT_FILE).write_bytes(b"before")
    with pytest.raises(ExportError, match="scores differ"):
        export(detr, tmp_path / TORCHSCRIPT_FILE, size=SIZE, precision="fp16", score_limit=1e-12)
    assert (tmp_path / TORCHSCRIPT_FILE).read_bytes() == b"before"
    assert [path.name for path in tmp_path.iterdir()] == [TORCHSCRIPT_FILE]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"format": "onyx"}, "no format 'onyx'; did you mean 'onnx'"),
        ({"format": "openvino"}, "ends in '.xml'"),
        ({"precision": "fp64"}, "no precision 'fp64'"),
        ({"precision": "int8", "output": TORCHSCRIPT_FILE}, "'torchscript' has no precision 'int8'"),
        ({"preprocess": "around"}, "no preprocess 'around'"),
        ({"batch": 0}, "batch=0"),
        ({"size": (0, 64)}, "size=\\(0, 64\\)"),
        ({"size": "small"}, "size='small'"),
        ({"opset": 17}, "opset=17.*18.."),
        ({"opset": 99}, "opset=99"),
        ({"output": "detector.pb"}, "suffix says no format"),
    ],
)
def test_invalid_settings_raise_an_error(detr, tmp_path, settings, message):
    output = tmp_path / settings.pop("output", "detector.onnx")
    with pytest.raises(ExportError, match=message):
        export(detr, output, **{"size": 64, **settings})
    assert list(tmp_path.iterdir()) == []


def test_an_unwritable_path_raises_an_error(detr, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="file"):
        export(detr, tmp_path / "file" / TORCHSCRIPT_FILE, size=64)


def test_a_size_that_the_model_does_not_support_raises_an_error(tmp_path):
    learned = {
        "position_embedding": L(import_module("detrex_lite.layers").PositionEmbeddingLearned)(
            num_pos_feats=64, row_num_embed=4, col_num_embed=4
        )
    }
    with pytest.raises(ExportError, match="does not take images of 64x96.*row_num_embed=4"):
        export(small_predictor(DETR, **learned), tmp_path / TORCHSCRIPT_FILE, size=(64, 96))


def test_unsupported_test_transforms_need_a_fixed_size(tmp_path):
    predictor = small_predictor(DETR, resize=L(ResizeShortestEdge)(short_edge_length=[64, 96]))
    with pytest.raises(ExportError, match="ResizeShortestEdge.*give a fixed size"):
        export(predictor, tmp_path / TORCHSCRIPT_FILE)


def test_size_is_taken_from_a_test_transform_to_a_fixed_size(tmp_path):
    predictor = small_predictor(DETR, resize=L(realtime_test_augmentation)(size=[64, 96]))
    description = export(predictor, tmp_path / TORCHSCRIPT_FILE)
    assert (description.height, description.width) == (64, 96)
    assert description.resize == {"kind": "stretch", "height": 64, "width": 96}


def test_unsupported_models_and_postprocessors_raise_an_error(detr, tmp_path, monkeypatch):
    with monkeypatch.context() as patched:
        patched.setattr(detr, "model", nn.Identity())
        with pytest.raises(ExportError, match="Identity cannot be exported"):
            export(detr, tmp_path / TORCHSCRIPT_FILE)
    with monkeypatch.context() as patched:
        patched.setattr(detr.model, "postprocessor", lambda predictions, sizes: [])
        with pytest.raises(ExportError, match="subclass of"):
            export(detr, tmp_path / TORCHSCRIPT_FILE)
        patched.setattr(detr.model, "postprocessor", MaskPostprocessor())
        with pytest.raises(ExportError, match="MaskPostprocessor.*TopKPostprocessor"):
            export(detr, tmp_path / TORCHSCRIPT_FILE)

    class Mine(TopKPostprocessor):
        def settings(self):
            return {"kind": "mine"}

    with monkeypatch.context() as patched:
        patched.setattr(detr.model, "postprocessor", Mine())
        with pytest.raises(ExportError, match="use postprocess='inside'"):
            export(detr, tmp_path / TORCHSCRIPT_FILE, postprocess="outside")
        patched.setattr(detr.model, "postprocessor", SoftmaxPostprocessor(suppression=NMS()))
        with pytest.raises(ExportError, match="suppression by NMS .* use postprocess='inside'"):
            export(detr, tmp_path / TORCHSCRIPT_FILE, postprocess="outside")


@pytest.mark.parametrize(
    ("output", "settings", "package", "command"),
    [
        ("detector.onnx", {}, "onnxscript", "pip install 'detrex-lite\\[export\\]'"),
        ("detector.onnx", {}, "onnxruntime", "pip install 'detrex-lite\\[runtime\\]'"),
        ("detector.xml", {}, "openvino", "pip install 'detrex-lite\\[openvino\\]'"),
        ("detector.xml", {"precision": "int8"}, "nncf", "pip install nncf"),
    ],
)
def test_missing_packages_are_reported_with_the_command_that_installs_them(
    detr, tmp_path, monkeypatch, output, settings, package, command
):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ExportedFileError, match=f"needs the package {package}.*{command}"):
        export(detr, tmp_path / output, size=64, **settings)
    assert list(tmp_path.iterdir()) == []


def test_files_that_cannot_be_run_raise_an_error(detr_onnx, tmp_path, monkeypatch):
    path, _ = detr_onnx
    with pytest.raises(ExportedFileError, match="there is no file"):
        ExportedPredictor(tmp_path / "nothing.onnx")
    with pytest.raises(ExportedFileError, match=r"not an exported file.*\.onnx"):
        ExportedPredictor(tmp_path / "model.pth")
    (tmp_path / "cut.onnx").write_bytes(path.read_bytes()[:5000])
    with pytest.raises(ExportedFileError, match="cut.onnx cannot be loaded"):
        ExportedPredictor(tmp_path / "cut.onnx")
    with pytest.raises(ExportedFileError, match="device='cuda'"):
        ExportedPredictor(path, device="cuda")
    for properties, message in (({}, "was not written by"), ({"detrex_lite": "{}"}, "Export it again")):
        model = onnx.load(path)
        onnx.helper.set_model_props(model, properties)
        onnx.save(model, tmp_path / "other.onnx")
        with pytest.raises(ExportedFileError, match=message):
            ExportedPredictor(tmp_path / "other.onnx")
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(ExportedFileError, match="pip install 'detrex-lite\\[runtime\\]'"):
        ExportedPredictor(path)


def test_unreadable_images_do_not_stop_the_iteration(detr_onnx, tmp_path):
    (tmp_path / "broken.png").write_bytes(b"no image")
    exported = ExportedPredictor(detr_onnx[0], score_threshold=0.0, batch_size=2)
    results = [result for _, result in exported.iterate([tmp_path / "broken.png", made_up_image(64, 64, 0), 3])]
    assert [isinstance(result, ValueError) for result in results] == [True, False, True]
    assert "broken.png" in str(results[0])
    with pytest.raises(ValueError, match="cannot read a int as an image"):
        exported(3)
    with pytest.raises(ValueError, match="an \\(H, W, 3\\) uint8 array"):
        exported(np.zeros((3, 64, 64), np.uint8))
    with pytest.raises(ValueError, match="score_threshold"):
        ExportedPredictor(detr_onnx[0], score_threshold=2)


WITHOUT_TORCH = """
import json, sys
for name in ("torch", "torchvision", "omegaconf", "scipy"):
    sys.modules[name] = None  # simulates missing packages
import detrex_lite
from detrex_lite.inference import AugmentedPredictor, ExportedPredictor, TiledPredictor
predictor = ExportedPredictor(sys.argv[1])
found = predictor(sys.argv[2], score_threshold=0.0)
names = list(predictor.class_names)
assert [row["name"] for row in found.to_dict()["objects"]] == [names[row] for row in found.pred_classes]
views = AugmentedPredictor(predictor), TiledPredictor(predictor, tile=96)
assert all(len(view(sys.argv[2], score_threshold=0.0)) for view in views)
print(json.dumps([found.scores.tolist(), found.pred_boxes.tensor.tolist(), names]))
"""


def test_files_run_without_torch(detr, detr_onnx, tmp_path):
    image = tmp_path / "image.png"
    Image.fromarray(made_up_image(96, 140, 5)).save(image)
    command = [sys.executable, "-c", WITHOUT_TORCH, str(detr_onnx[0]), str(image)]
    completed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert completed.returncode == 0, completed.stderr
    scores, boxes, names = json.loads(completed.stdout)
    expected = detr(image)
    np.testing.assert_allclose(scores, expected.scores, atol=1e-4)
    np.testing.assert_allclose(boxes, expected.pred_boxes.tensor, atol=0.5)
    assert tuple(names) == detr.class_names


@pytest.mark.parametrize(
    "resize",
    [L(v2.Resize)(size=(61, 83), antialias=True), L(ResizeShortestEdge)(short_edge_length=60, max_size=90)],
    ids=["stretch", "shortest_edge"],
)
def test_images_are_resized_like_in_torch(detr_onnx, resize):
    predictor = small_predictor(DETR, resize=resize)
    exported = ExportedPredictor(detr_onnx[0])
    resize_description = {"kind": "stretch", "height": 61, "width": 83}
    if "short_edge_length" in resize:
        resize_description = {"kind": "shortest_edge", "short_edge_length": 60, "max_size": 90}
    exported.session.description = dataclasses.replace(exported.session.description, resize=resize_description)
    for height, width in ((97, 131), (200, 80), (61, 83)):
        image = made_up_image(height, width, 7)
        expected = predictor.resize(torch.from_numpy(image).permute(2, 0, 1)).permute(1, 2, 0)
        actual = exported.resize(image)
        assert actual.shape == tuple(expected.shape)
        assert np.abs(actual.astype(int) - expected.numpy().astype(int)).max() <= 1


def test_images_keep_their_aspect_ratio_in_padded_files_of_fixed_size():
    fit = {"kind": "fit", "height": 100, "width": 200}
    assert resized_size(fit, 50, 50) == (100, 100)
    assert resized_size(fit, 1000, 4000) == (50, 200)
    assert resized_size(fit, 1, 4000) == (1, 200)
    assert resized_size(None, 3, 4) == (3, 4)


@pytest.mark.parametrize("kind", [TopKPostprocessor, SoftmaxPostprocessor])
@pytest.mark.parametrize("clip", [True, False])
def test_selection_in_numpy_agrees_with_torch(kind, clip):
    torch.manual_seed(0)
    postprocessor = kind(clip_boxes=clip)
    predictions = Predictions(torch.randn(2, 30, 5), torch.rand(2, 30, 4) * torch.tensor([1.2, 1.2, 0.3, 0.3]))
    predictions.boxes[0, :10, 2] = 0  # without area
    expected = postprocessor.select(predictions)
    actual = select(predictions.logits.numpy(), predictions.boxes.numpy(), postprocessor.settings())
    for actual_values, expected_values in zip(actual, expected, strict=True):
        np.testing.assert_allclose(actual_values, expected_values.numpy(), atol=1e-6)
    assert actual[3].all() != clip


def test_the_package_exports_export():
    assert detrex_lite.export is export
