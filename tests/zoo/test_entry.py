import pytest

from detrex_lite.config import ConfigError, LazyConfig
from detrex_lite.zoo import Origin, ZooEntry, ZooError, detrex, load_zoo

VALUES = dict(
    name="a",
    config="configs/a.py",
    url="https://example.org/a.bin?download=1",
    format="detrex",
    num_classes=80,
    epochs=12,
    box_ap=49.2,
    trained_by="us",
    licence="MIT",
    source="https://example.org",
)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": "A b"}, "name='A b'"),
        ({"url": ""}, "a: give either the url of the file or the page"),
        ({"page": "https://example.org"}, "a: give either"),
        ({"url": "ftp://example.org/a.pth"}, "a: 'ftp://example.org/a.pth' is not an http or https address"),
        ({"sha256": "ABCDEF01"}, "a: sha256='ABCDEF01' must be 8 to 64 "),
        ({"overrides": "model.num_queries=3"}, "a: overrides='model.num_queries=3' must be a tuple"),
    ],
)
def test_invalid_values_raise_an_error(change, message):
    with pytest.raises(ZooError, match=message):
        ZooEntry(**{**VALUES, **change})


def test_the_file_is_named_after_the_entry_and_keeps_its_suffix():
    assert ZooEntry(**VALUES).file_name == "a.bin"
    assert ZooEntry(**{**VALUES, "url": "", "page": "https://example.org/drive"}).file_name == "a.pth"


def test_an_origin_creates_entries():
    origin = Origin(
        base="https://example.org/",
        page="https://example.org/drive",
        **{key: VALUES[key] for key in ("format", "licence", "num_classes", "source", "trained_by")},
    )
    entry = origin("a", "models/a", 12, 49.2, "a.pth", notes="new")
    assert (entry.url, entry.page, entry.notes) == ("https://example.org/a.pth", "", "new")
    assert (entry.config, entry.epochs, entry.box_ap, entry.format) == ("configs/models/a.py", 12, 49.2, "detrex")
    by_hand = origin("b", "b", None, None)
    assert (by_hand.url, by_hand.page) == ("", "https://example.org/drive")
    assert origin("b", "b", None, None, page="https://example.org/b").page == "https://example.org/b"
    assert "converted" in detrex("https://example.org", converted=True)("c", "c", 1, 1.0, "c.pth").trained_by


def test_a_model_config_is_completed_with_coco_and_overrides_are_applied_last(small_zoo):
    entry = load_zoo([small_zoo.table])["small_dino"]
    cfg = entry.load_config(["model.num_queries=7", "train.seed=3"])
    assert cfg.dataloader.test.dataset.name == "coco_2017_val"
    assert (cfg.model.num_queries, cfg.train.seed, cfg.dataloader.test.num_workers) == (7, 3, 0)
    assert cfg.model.backbone.weights is None
    with pytest.raises(ConfigError, match="num_querys"):
        entry.load_config(["model.num_querys=7"])


def test_a_training_config_keeps_its_data(small_zoo):
    entry = load_zoo([small_zoo.table])["small_detr"]
    assert entry.load_config().dataloader.test.dataset.name == "mine"
    assert LazyConfig.load(entry.config_file).model.backbone.weights == "IMAGENET1K_V1"


def test_the_description_omits_empty_values(small_zoo):
    entry = load_zoo([small_zoo.table])["small_dino"]
    rows = dict(line.split(maxsplit=1) for line in entry.describe().splitlines())
    assert rows["name"] == "small_dino"
    assert rows["config"] == str(entry.config_file)
    assert rows["box_ap"] == "49.2"
    assert rows["overrides"].endswith("train.device=cpu")
    assert not {"page", "notes"} & set(rows)
