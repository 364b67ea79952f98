import json

import pytest
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from detrex_lite.config import ConfigError, LazyConfig, get_config, validate
from detrex_lite.config.validation import unread_keys
from detrex_lite.engine import derived, train

CONFIG = "projects/dino/configs/dino_r50_custom.py"


@pytest.fixture
def annotations(tmp_path):
    def write(images: int, classes: int = 3):
        path = tmp_path / "train.json"
        content = {
            "images": [{"id": number} for number in range(images)],
            "categories": [{"id": number, "name": str(number)} for number in range(classes)],
        }
        path.write_text(json.dumps(content))
        return path

    return write


def _config(annotations, *overrides):
    return LazyConfig.apply_overrides(LazyConfig.load(CONFIG), [f"dataset.train_annotations={annotations}", *overrides])


def test_classes_epochs_and_rates_follow_from_data_and_batch(annotations):
    cfg = _config(annotations(205))
    assert cfg.model.num_classes == cfg.model.denoising.num_classes == 3
    assert cfg.optimizer.lr == pytest.approx(5e-5)  # a quarter of the published batch
    assert cfg.train.max_epochs == 600  # the most, three times from scratch
    assert (cfg.train.init_checkpoint, cfg.model.backbone.weights) == ("", None)
    assert (cfg.model.backbone.norm, cfg.model.backbone.freeze_at) == ("BN", 0)
    assert cfg.optimizer.params.backbone_lr_factor == 1.0
    cfg = LazyConfig.apply_overrides(cfg, ["dataloader.train.total_batch_size=32", "train.accumulate_steps=2"])
    assert cfg.optimizer.lr == pytest.approx(2e-4)


@pytest.mark.parametrize(("images", "epochs"), [(118287, 36), (500000, 36), (29572, 72), (1, 600)])
def test_max_epochs_follows_from_the_number_of_images(annotations, images, epochs):
    cfg = OmegaConf.create({"dataset": {"train_annotations": str(annotations(images))}})
    assert derived.max_epochs(cfg) == epochs


@pytest.mark.parametrize("kind", ["detector", "backbone"])
def test_pretrained_weights_are_used_when_the_file_exists(annotations, tmp_path, kind):
    (tmp_path / "weights.pth").touch()
    cfg = _config(annotations(118287), f"pretrained.{kind}={tmp_path / 'weights.pth'}")
    file = str(tmp_path / "weights.pth")
    expected = (file, None) if kind == "detector" else ("", file)
    assert (cfg.train.init_checkpoint, cfg.model.backbone.weights) == expected
    assert (cfg.model.backbone.norm, cfg.model.backbone.freeze_at) == ("FrozenBN", 1)
    assert cfg.optimizer.params.backbone_lr_factor == 0.1
    assert cfg.train.max_epochs == 12


@pytest.mark.parametrize("kind", ["detector", "backbone"])
def test_missing_pretrained_weights_raise(annotations, tmp_path, kind):
    cfg = _config(annotations(205), f"pretrained.{kind}={tmp_path / 'typo.pth'}", f"train.output_dir={tmp_path}")
    message = rf"pretrained\.{kind}=.*typo\.pth: .*no such file"
    with pytest.raises(ConfigError, match=message):
        getattr(derived, f"{kind}_weights")(cfg)
    with pytest.raises((ConfigError, OmegaConfBaseException), match=message):
        train(cfg)


def test_paths_of_weights_expand_the_home_folder(annotations, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "weights.pth").touch()
    cfg = _config(annotations(205), "pretrained.backbone=~/weights.pth")
    assert cfg.model.backbone.weights == str(tmp_path / "weights.pth")


def test_overrides_replace_derived_values(annotations):
    cfg = _config(annotations(205), "optimizer.lr=1e-3", "train.max_epochs=7", "model.num_classes=5")
    assert (cfg.optimizer.lr, cfg.train.max_epochs, cfg.model.num_classes) == (1e-3, 7, 5)


def test_unreadable_annotations_raise(tmp_path):
    cfg = OmegaConf.create({"dataset": {"train_annotations": str(tmp_path / "none.json")}})
    with pytest.raises(ConfigError, match=r"dataset\.train_annotations=.*none\.json .*No such file"):
        derived.num_classes(cfg)
    twice = '{"images": [], "images": [], "categories": [{"id": 1}]}'
    texts = ("not json", "{}", '{"images": [], "categories": []}', "[]", "[" * 100_000, twice)
    for number, text in enumerate(texts):
        file = tmp_path / f"{number}.json"
        file.write_text(text)
        cfg.dataset.train_annotations = str(file)
        with pytest.raises(ConfigError, match=rf"{number}\.json.* COCO JSON"):
            derived.num_classes(cfg)


def test_each_missing_data_path_is_reported_once():
    with pytest.raises(ConfigError) as caught:
        validate(get_config("projects/dino/configs/dino_r50_custom.py"))
    assert sorted(caught.value.faults) == [
        f"dataset.{key}: has no value yet (it is ???)"
        for key in ("train_annotations", "train_images", "val_annotations", "val_images")
    ]


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_annotations_are_read_in_any_unicode_encoding(annotations, encoding):
    file = annotations(118287)
    file.write_text(file.read_text(), encoding=encoding)
    cfg = OmegaConf.create({"dataset": {"train_annotations": str(file)}})
    assert (derived.num_classes(cfg), derived.max_epochs(cfg)) == (3, 36)


def test_every_target_of_the_derived_config_is_in_the_module():
    text = OmegaConf.to_yaml(get_config("common/derived.py").derived, resolve=False)
    names = [part.partition("}")[0] for part in text.split("detrex_lite.engine.derived.")[1:]]
    assert len(names) == 8
    assert all(callable(getattr(derived, name)) for name in names)


@pytest.fixture
def realtime(annotations):
    """Return a function that makes a config for custom data with the recipe of a real-time detector."""

    def make(images, *overrides):
        cfg = _config(annotations(images))
        data = get_config("common/data/custom_coco_realtime.py")
        recipe = get_config("common/realtime.py")
        cfg.dataloader, cfg.train, cfg.optimizer = data.dataloader, recipe.train, recipe.optimizer
        cfg.published = {"epochs": 160, "batch": 128, "lr": 8e-4}
        derived_realtime = get_config("common/derived.py").derived_realtime
        for section in ("optimizer", "train", "dataloader"):
            cfg[section].merge_with(derived_realtime[section])
        cfg.train.model_ema.restart.epoch = "${dataloader.strong_epochs[1]}"
        cfg.dataset.train_images = cfg.dataset.val_images = "images"
        cfg.dataset.val_annotations = cfg.dataset.train_annotations
        cfg.dataloader.train.total_batch_size = 8
        return LazyConfig.apply_overrides(cfg, list(overrides))

    return make


def test_epochs_of_augmentation_follow_from_the_length(realtime):
    cfg = realtime(30_000, "train.max_epochs=132")
    assert cfg.dataloader.strong_epochs == [4, 120]
    assert cfg.dataloader.mosaic_epochs == [4, 64]
    assert cfg.dataloader.train.mixup.epochs == [4, 64]
    assert cfg.dataloader.train.multi_scale.epochs == [0, 120]
    assert cfg.train.model_ema.restart.epoch == 120
    assert cfg.optimizer.lr == pytest.approx(2e-4)  # a sixteenth of the published batch
    validate(cfg)
    assert realtime(118_287).train.max_epochs == 3 * 160
    assert realtime(30_000, "train.max_epochs=null").dataloader.mosaic_epochs == [0, None]
    assert realtime(30_000, "dataloader.strong_epochs=[1,2]").dataloader.train.multi_scale.epochs == [0, 2]


@pytest.mark.parametrize("epochs", [1, 2, 3, 5, 10, 11, 30, 60, 200])
def test_epochs_of_augmentation_are_ordered_for_every_length(realtime, epochs):
    cfg = realtime(30_000, f"train.max_epochs={epochs}")
    for key in ("strong_epochs", "mosaic_epochs"):
        first, end = cfg.dataloader[key]
        assert 0 <= first < end <= epochs


def test_keys_of_the_published_training_are_read(realtime):
    cfg = realtime(30_000)
    assert unread_keys(cfg) == []


def test_settings_follow_from_a_folder(annotations, tmp_path):
    content = json.loads(annotations(205).read_text())
    for image in content["images"]:
        image.update(file_name=f"{image['id']}.png", height=8, width=8)
    (tmp_path / "photos/train").mkdir(parents=True)
    (tmp_path / "photos/train/0.png").touch()
    (tmp_path / "photos/train/boxes.json").write_text(json.dumps({**content, "annotations": []}))
    cfg = OmegaConf.create({"dataset": {"root": str(tmp_path / "photos"), "val_share": 0.1, "layout": None}})
    assert derived.num_classes(cfg) == 3
    assert derived.max_epochs(cfg) == 600
    cfg = OmegaConf.create({"dataset": {"root": str(tmp_path / "nothing")}})
    with pytest.raises(ConfigError, match=r"dataset.root=.*nothing: folder .* does not exist"):
        derived.num_classes(cfg)
