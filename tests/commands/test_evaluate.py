"""`detrex-lite evaluate` writes the metrics, the errors with file names, and the report into one folder."""

import json

import pytest

from detrex_lite.cli import main
from detrex_lite.config import LazyConfig
from detrex_lite.data import generate_shapes
from detrex_lite.engine import train


def test_metrics_errors_and_report_are_written_to_the_output_folder(tmp_path, capsys):
    generate_shapes(tmp_path / "shapes", num_train=2, num_val=3, empty_share=0.0)
    cfg = LazyConfig.load("projects/dino/configs/dino_small_shapes.py")
    overrides = [f"dataset.root={tmp_path}/shapes", f"train.output_dir={tmp_path}/run", "train.max_iter=1"]
    overrides += ["train.device=cpu", "dataloader.train.total_batch_size=2", "train.eval_period=0"]
    results = train(LazyConfig.apply_overrides(cfg, overrides))
    assert not (tmp_path / "new").exists()
    config, weights = tmp_path / "run" / "config.yaml", tmp_path / "run" / "model_final.pth"
    assert (
        main(["evaluate", "--config-file", f"{config}", "--weights", f"{weights}", "--output", f"{tmp_path}/new"]) == 0
    )
    written = {path.relative_to(tmp_path / "new").as_posix() for path in (tmp_path / "new").rglob("*")}
    assert written >= {"report.html", *(f"evaluation/{name}.json" for name in ("metrics", "predictions", "errors"))}
    metrics = json.loads((tmp_path / "new" / "evaluation" / "metrics.json").read_text())
    assert metrics["bbox"]["AP"] == results["bbox"]["AP"]
    worst = json.loads((tmp_path / "new" / "evaluation" / "errors.json").read_text())["boxes"]["worst_images"]
    assert {image["file_name"] for image in worst} <= {str(path) for path in (tmp_path / "shapes").rglob("*.png")}
    for folder in ("run", "new"):  # written after training, and by the evaluation alone
        page = (tmp_path / folder / "report.html").read_text()
        for title in ("What is wrong", "Worst images", "Inside the decoder"):
            assert f"<h2>{title}" in page or f">{title}</h2>" in page, (folder, title)

    generate_shapes(tmp_path / "others", num_train=1, num_val=2, empty_share=0.0, seed=7)
    others = f"{tmp_path}/others"
    assert main(["evaluate", "--weights", f"{weights}", "--data", others, "--output", f"{tmp_path}/on_others"]) == 0
    images = json.loads((tmp_path / "on_others" / "evaluation" / "errors.json").read_text())["boxes"]["worst_images"]
    assert images
    assert all(image["file_name"].startswith(others) for image in images)
    capsys.readouterr()
    with pytest.raises(SystemExit, match="2"):
        main(["evaluate", "--weights", f"{weights}", "--split", "test"])
    assert "split 'test'" in capsys.readouterr().err
    split = "dataloader.test.dataset.split=train"  # the evaluator keeps the validation images
    with pytest.raises(SystemExit) as stopped:
        main(["evaluate", "--config-file", f"{config}", "--weights", f"{weights}", split])
    assert stopped.value.code == 2
    assert "dataloader.evaluator.dataset" in capsys.readouterr().err
