import glob
import os

import numpy as np
import pytest
import torch
from PIL import Image

from detrex_lite.data import DatasetError, decode_image, list_images, read_image, read_image_size

from .samples import write_image


def test_pixels_are_rgb(tmp_path):
    image = read_image(write_image(tmp_path / "a.png", 40, 60))
    assert image.shape == (3, 40, 60)
    assert image.dtype == torch.uint8
    assert image[0, 20, 0] == 127  # red grows downwards
    assert image[1, 0, 30] == 127  # green to the right
    assert image[2, 5, 5] == 90


@pytest.mark.parametrize("mode", ["L", "1", "P", "LA", "RGBA", "CMYK", "YCbCr", "I;16"])
def test_every_mode_becomes_rgb(tmp_path, mode):
    grey = np.linspace(0, 255, 40 * 60).reshape(40, 60).round().astype(np.uint8)
    if mode == "I;16":
        picture = Image.fromarray(grey.astype(np.uint16) * 257)
    else:
        colour = mode in ("CMYK", "YCbCr", "RGBA")
        picture = Image.fromarray(grey).convert("RGB" if colour else "L").convert(mode)
    path = tmp_path / ("a.tif" if mode in ("CMYK", "YCbCr") else "a.png")
    picture.save(path)
    with Image.open(path) as stored:
        assert stored.mode == mode
    image = read_image(path)
    assert image.shape == (3, 40, 60)
    if mode == "1":
        assert set(image.unique().tolist()) == {0, 255}
    else:
        expected = torch.from_numpy(grey.astype(np.int16)).expand(3, -1, -1)
        torch.testing.assert_close(image.to(torch.int16), expected, rtol=0, atol=1)


def test_transparent_palettes_and_animations_are_read(tmp_path):
    picture = Image.fromarray(np.full((8, 8, 3), 200, np.uint8)).convert("P")
    picture.save(tmp_path / "a.png", transparency=0)
    assert read_image(tmp_path / "a.png").shape == (3, 8, 8)
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    assert read_image(tmp_path / "a.gif")[:, 0, 0].tolist() == [255, 0, 0]


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(tmp_path, orientation):
    from PIL import ImageOps

    exif = Image.Exif()
    exif[0x0112] = orientation
    path = write_image(tmp_path / "a.png", 40, 60, exif=exif)
    with Image.open(path) as stored:
        expected = np.array(ImageOps.exif_transpose(stored))
    image = read_image(path)
    np.testing.assert_array_equal(image.permute(1, 2, 0).numpy(), expected)
    assert read_image_size(path) == tuple(image.shape[-2:]) == ((60, 40) if orientation >= 5 else (40, 60))


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
def test_images_with_broken_exif_are_read(tmp_path):
    path = write_image(tmp_path / "a.jpg", 40, 60, exif=b"Exif\x00\x00MM\x00*\xff\xff\xff\xff")
    assert read_image(path).shape == (3, 40, 60)


def test_unreadable_files_raise_an_error_with_their_names(tmp_path):
    content = write_image(tmp_path / "a.jpg", 200, 300).read_bytes()
    cut = tmp_path / "cut.jpg"
    cut.write_bytes(content[: len(content) // 2])
    text = tmp_path / "text.png"
    text.write_text("no image")
    with pytest.raises(DatasetError, match=r"cut.jpg cannot be read: .*truncated"):
        read_image(cut)
    for read in (read_image, read_image_size):
        with pytest.raises(DatasetError, match=r"text.png cannot be read"):
            read(text)
        with pytest.raises(DatasetError, match=r"missing.png does not exist"):
            read(tmp_path / "missing.png")
    Image.fromarray(np.zeros((4, 4), np.float32)).save(tmp_path / "float.tif")
    with pytest.raises(DatasetError, match=r"float.tif cannot be read: .*unknown range"):
        read_image(tmp_path / "float.tif")


def test_list_images_keeps_the_order_and_accepts_names_with_brackets(tmp_path):
    for name in ("b.png", "a[1].png", "sub/c.JPG"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert list_images([tmp_path / "b.png", str(tmp_path / "a[1].png")]) == [
        str(tmp_path / "b.png"),
        str(tmp_path / "a[1].png"),
    ]
    assert list_images(tmp_path) == [str(tmp_path / "a[1].png"), str(tmp_path / "b.png")]
    assert list_images(tmp_path / "**" / "*.JPG") == [str(tmp_path / "sub/c.JPG")]


@pytest.mark.parametrize("mode", ["L", "1", "P", "LA", "RGBA", "I;16"])
def test_pil_images_are_decoded_like_their_files(tmp_path, mode):
    grey = np.linspace(0, 255, 40 * 60).reshape(40, 60).round().astype(np.uint8)
    wide = Image.fromarray(grey.astype(np.uint16) * 257)
    (wide if mode == "I;16" else Image.fromarray(grey).convert(mode)).save(tmp_path / "a.png")
    with Image.open(tmp_path / "a.png") as opened:
        torch.testing.assert_close(decode_image(opened), read_image(tmp_path / "a.png"), rtol=0, atol=0)
    if mode == "I;16":
        torch.testing.assert_close(decode_image(wide), decode_image(wide.convert("I")), rtol=0, atol=0)
        assert 120 < decode_image(wide).float().mean() < 135


def test_undecodable_pil_images_raise_an_error(tmp_path):
    content = write_image(tmp_path / "a.jpg", 200, 300).read_bytes()
    (tmp_path / "cut.jpg").write_bytes(content[: len(content) // 2])
    with Image.open(tmp_path / "cut.jpg") as opened, pytest.raises(DatasetError, match="PIL image .* truncated"):
        decode_image(opened)
    with pytest.raises(DatasetError, match=r"PIL image .*unknown range"):
        decode_image(Image.fromarray(np.zeros((4, 4), np.float32)))


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("can't allocate memory")])
def test_an_image_too_large_for_memory_raises_an_error_with_its_name(tmp_path, monkeypatch, error):
    def fail(*arguments):
        raise error

    path = write_image(tmp_path / "large.png")
    monkeypatch.setattr(np, "array", fail)
    with pytest.raises(DatasetError, match=r"large.png cannot be read: (MemoryError|can't allocate memory)$"):
        read_image(path)


def test_cyclic_links_are_followed_once(tmp_path):
    """Two links to their own folder give 2**40 paths to each image, of which only one is listed."""
    for name in ("a.png", "sub/b.png", ".hidden/c.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        write_image(tmp_path / name)
    linked_folder = tmp_path.parent / f"{tmp_path.name}_elsewhere"
    linked_folder.mkdir()
    write_image(linked_folder / "d.png")
    (tmp_path / "linked").symlink_to(linked_folder)
    for name in ("first", "second", "sub/up"):
        (tmp_path / name).symlink_to(tmp_path)
    assert list_images(tmp_path / "**" / "*.png") == [
        str(tmp_path / name) for name in ("a.png", "linked/d.png", "sub/b.png")
    ]


@pytest.mark.parametrize("pattern", ["**", "**/*.png", "x*/**/*.png", "**/y/**/*.png", "**/x1/*", "[x]*/*.png"])
def test_patterns_agree_with_glob(tmp_path, monkeypatch, pattern):
    for name in ("a.png", "x1/b.png", "x1/y/c.png", "x1/y/z[1]/y/d.png", "x2/.e.png", ".f/g.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        write_image(tmp_path / name)
    monkeypatch.chdir(tmp_path)
    for given_pattern in (pattern, str(tmp_path / pattern)):
        expected = sorted({path for path in glob.glob(given_pattern, recursive=True) if os.path.isfile(path)})
        assert list_images(given_pattern) == expected
        assert expected


@pytest.mark.parametrize("read", [list_images, read_image])
def test_a_url_raises_an_error(read):
    with pytest.raises(DatasetError, match="https://example.com/a.jpg is an address"):
        read("https://example.com/a.jpg")


def test_tilde_is_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    write_image(tmp_path / "a.png", 40, 60)
    assert read_image("~/a.png").shape == (3, 40, 60)
    assert read_image_size("~/a.png") == (40, 60)
    assert list_images("~/a.png") == [str(tmp_path / "a.png")]
    for read in (read_image, read_image_size, list_images):
        with pytest.raises(DatasetError, match=r"~nobody-is-called-so/a\.png does not exist"):
            read("~nobody-is-called-so/a.png")
