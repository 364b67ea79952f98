"""`detrex-lite evaluate` writes everything into one folder: numbers, errors with names of files, and the page."""

import json

from detrex_lite.cli import main
from detrex_lite.config import LazyConfig
from detrex_lite.data import generate_shapes
from detrex_lite.engine import train


def test_results_errors_and_the_page_are_in_the_folder_that_is_asked_for(tmp_path, capsys):
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
    again = json.loads((tmp_path / "new" / "evaluation" / "metrics.json").read_text())
    assert again["bbox"]["AP"] == results["bbox"]["AP"]
    worst = json.loads((tmp_path / "new" / "evaluation" / "errors.json").read_text())["boxes"]["worst_images"]
    assert {image["file_name"] for image in worst} <= {str(path) for path in (tmp_path / "shapes").rglob("*.png")}
    for folder in ("run", "new"):  # after a training and after an evaluation alone
        page = (tmp_path / folder / "report.html").read_text()
        for title in ("What is wrong", "Worst images", "Inside the decoder"):
            assert f"<h2>{title}" in page or f">{title}</h2>" in page, (folder, title)
