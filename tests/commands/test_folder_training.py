"""Training, evaluation and prediction on a folder of images, by command lines as users write them."""

import json

import pytest

from detrex_lite import cli
from detrex_lite.commands.configs import plan_of
from detrex_lite.config import LazyConfig
from detrex_lite.data import generate_shapes
from detrex_lite.zoo import load_zoo

TINY = ("model.num_queries=5", "model.transformer.encoder.num_layers=1", "model.transformer.decoder.num_layers=1")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return generate_shapes(tmp_path_factory.mktemp("data") / "photos", num_train=8, num_val=4, image_size=32)


@pytest.fixture(scope="module")
def trained(data, tmp_path_factory):
    """Train for one epoch; returns the output folder."""
    output = tmp_path_factory.mktemp("run") / "detr"
    options = ["--epochs", "1", "--batch", "4", "--size", "32", "--lr", "1e-3", "--workers", "0", "--device", "cpu"]
    assert cli.main(["train", "detr_small", "--data", str(data), "--output", str(output), *options, *TINY]) == 0
    return output


def test_the_saved_config_has_the_options_of_the_command_line(trained, data):
    cfg = LazyConfig.load(trained / "config.yaml")
    assert cfg.dataloader.train.dataset.root == str(data)
    assert (cfg.train.max_epochs, cfg.dataloader.train.total_batch_size, cfg.optimizer.lr) == (1, 4, 1e-3)
    assert cfg.model.num_queries == 5
    assert (trained / "model_final.pth").is_file()
    assert "8 images" in (trained / "log.txt").read_text()


def test_another_run_in_the_same_folder_is_rejected(trained, data, capsys):
    with pytest.raises(SystemExit, match="2"):
        cli.main(["train", "detr_small", "--data", str(data), "--output", str(trained), "--batch", "4", *TINY])
    assert "--resume" in capsys.readouterr().err


def test_trained_weights_are_evaluated_and_predict(trained, data, tmp_path, capsys):
    folder = ["--data", str(data), "--device", "cpu", "dataloader.test.num_workers=0"]
    assert cli.main(["evaluate", "--weights", str(trained), *folder]) == 0
    assert "AP50" in (trained / "evaluation_photos" / "log.txt").read_text()
    folder = ["--device", "cpu", "dataloader.test.num_workers=0"]
    assert cli.main(["evaluate", "--weights", str(trained), "--split", "train", *folder]) == 0
    errors = json.loads((trained / "evaluation_train" / "evaluation" / "errors.json").read_text())
    assert errors["boxes"]["images"] == 8
    predictions = tmp_path / "found"
    photos = str(data / "images" / "val")
    arguments = [photos, "--weights", str(trained), "--conf", "0", "--output", str(predictions), "--device", "cpu"]
    assert cli.main(["predict", *arguments]) == 0
    assert len(json.loads((predictions / "predictions.json").read_text())["images"]) == 4


def test_weights_of_the_backbone_shorten_the_training(data, tmp_path):
    (tmp_path / "resnet50.pth").touch()
    arguments = ["dino", "--data", str(data), "--batch", "4", "--device", "cpu"]
    words = ["pretrained.backbone=" + str(tmp_path / "resnet50.pth")]
    scratch, plan = (plan_of(cli.parser_of("train").parse([*arguments, *extra])) for extra in ([], words))
    settings = {setting.name: setting.value for setting in plan.settings}
    assert str(tmp_path / "resnet50.pth") in settings["weights"]
    assert plan.cfg.model.backbone.weights == str(tmp_path / "resnet50.pth")
    assert 3 * plan.cfg.train.max_epochs == scratch.cfg.train.max_epochs
    assert settings["epochs"] == str(plan.cfg.train.max_epochs)


def test_output_folder_of_a_config_file_is_used(data, tmp_path):
    file = tmp_path / "mine.py"
    file.write_text(
        "from detrex_lite.config import get_config\n"
        'cfg = get_config("projects/detr/configs/detr_small_shapes.py")\n'
        "model, dataset, dataloader, optimizer = cfg.model, cfg.dataset, cfg.dataloader, cfg.optimizer\n"
        "lr_multiplier, train = cfg.lr_multiplier, cfg.train\n"
        'train.output_dir = "mine"\n'
    )
    arguments = [str(file), "--data", str(data), "--batch", "4", "--device", "cpu"]
    for options, output in (([], "mine"), (["--output", "theirs"], "theirs"), (["train.output_dir=third"], "third")):
        plan = plan_of(cli.parser_of("train").parse([*arguments, *options]))
        assert plan.cfg.train.output_dir == output
    plan = plan_of(cli.parser_of("train").parse(["detr_small", *arguments[1:]]))
    assert plan.cfg.train.output_dir == "output/detr_small_photos"


def test_a_resumed_run_keeps_its_batch_size(trained, data):
    arguments = ["detr_small", "--data", str(data), "--output", str(trained), "--resume"]
    plan = plan_of(cli.parser_of("train").parse(arguments))
    assert plan.cfg.dataloader.train.total_batch_size == 4
    reasons = {setting.name: setting.reason for setting in plan.settings}
    assert "continues" in reasons["batch"]


def test_fine_tuning_starts_from_trained_weights(trained, data, tmp_path):
    arguments = ["detr_small", "--data", str(data), "--batch", "4", "--fine-tune", str(trained / "model_final.pth")]
    plan = plan_of(cli.parser_of("train").parse(arguments))
    assert plan.cfg.train.init_checkpoint == str(trained / "model_final.pth")
    assert plan.cfg.optimizer.params.backbone_lr_factor == 1.0  # small models are trained as a whole


@pytest.fixture
def downloads(monkeypatch, tmp_path):
    """Record the names of requested checkpoints, and replace each download by an empty file."""
    requested = []

    def obtain(entry):
        requested.append(entry.name)
        (tmp_path / entry.file_name).touch()
        return type("Checkpoint", (), {"path": tmp_path / entry.file_name})

    monkeypatch.setattr("detrex_lite.commands.configs.obtain", obtain)
    return requested


@pytest.mark.parametrize(
    ("words", "checkpoint", "config"),
    [
        (["dino", "--fine-tune"], "dino_r50_4scale_12ep", "dino_r50_4scale_12ep"),
        (["--fine-tune", "dino"], "dino_r50_4scale_12ep", "dino_r50_4scale_12ep"),
        (["dfine_n", "--fine-tune"], "dfine_n", "dfine_n_160ep"),
        (["--fine-tune", "dfine_s_obj365"], "dfine_s_obj365", "dfine_s_132ep"),
        (
            ["dino_r50_4scale_36ep", "--fine-tune", "dino_r50_4scale_12ep"],
            "dino_r50_4scale_12ep",
            "dino_r50_4scale_36ep",
        ),
    ],
)
def test_fine_tune_downloads_the_published_checkpoint(words, checkpoint, config, data, downloads):
    plan = plan_of(cli.parser_of("train").parse([*words, "--data", str(data), "--batch", "1"]))
    assert downloads == [checkpoint]
    assert load_zoo()[checkpoint].file_name in plan.cfg.train.init_checkpoint
    settings = {setting.name: setting for setting in plan.settings}
    assert config in settings["model"].reason
    assert plan.cfg.model.backbone.weights is None
    assert plan.cfg.train.max_epochs <= 200


def test_auto_chooses_a_small_model_without_a_gpu(data, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    plan = plan_of(cli.parser_of("train").parse(["auto", "--data", str(data), "--batch", "1"]))
    assert plan.settings[0].value == "dino_small"


def test_options_apply_without_a_data_folder(tmp_path):
    words = ["dino_small", "--epochs", "3", "--batch", "2", "--lr", "1e-3", "--output", "out", "--seed", "4"]
    cfg = plan_of(cli.parser_of("train").parse([*words, "train.log_period=7"])).cfg
    assert (cfg.train.max_epochs, cfg.train.log_period, cfg.train.seed, cfg.train.output_dir) == (3, 7, 4, "out")
    assert (cfg.dataloader.train.total_batch_size, cfg.optimizer.lr) == (2, 1e-3)
    cfg = plan_of(cli.parser_of("train").parse(["dfine_n", "--size", "320"])).cfg
    assert cfg.dataloader.image_size == 320


def test_the_printed_config_of_a_folder_can_be_trained(data, tmp_path, capsys):
    assert cli.main(["config", "dino_small", "--data", str(data), "--batch", "4"]) == 0
    printed = capsys.readouterr()
    assert "learning rate" in printed.err
    (tmp_path / "mine.yaml").write_text(printed.out)
    cfg = plan_of(cli.parser_of("train").parse([str(tmp_path / "mine.yaml")])).cfg
    assert cfg.dataset.root == str(data)
    assert cfg.model.num_classes == 3
