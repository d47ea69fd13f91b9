import numpy as np
import pytest
from PIL import Image

from jaxdl.data.images import read_image
from jaxdl.errors import UserError

GREY = np.arange(28 * 28, dtype=np.uint32).reshape(28, 28) * 255 // 783
GREY = GREY.astype(np.uint8)


def save(tmp_path, array, mode=None, name="a.png", **options):
    picture = Image.fromarray(array)
    (picture.convert(mode) if mode else picture).save(tmp_path / name, **options)
    return tmp_path / name


def test_a_picture_of_the_right_size_is_read_exactly(tmp_path):
    read = read_image(save(tmp_path, GREY), 28, 28, 1)
    assert read.dtype == np.uint8
    np.testing.assert_array_equal(read[..., 0], GREY)
    colour = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    np.testing.assert_array_equal(read_image(save(tmp_path, colour), 8, 8, 3), colour)


def test_modes_that_hold_the_same_grey_values_read_alike(tmp_path):
    for mode in ("RGB", "RGBA", "LA", "P"):
        read = read_image(save(tmp_path, GREY, mode), 28, 28, 1)
        np.testing.assert_allclose(read[..., 0].astype(int), GREY, atol=1, err_msg=mode)
    deep = save(tmp_path, GREY.astype(np.uint16) * 257)
    np.testing.assert_array_equal(read_image(deep, 28, 28, 1)[..., 0], GREY)
    floats = save(tmp_path, GREY.astype(np.float32) / 255, name="a.tiff")
    np.testing.assert_array_equal(read_image(floats, 28, 28, 1)[..., 0], GREY)
    bilevel = save(tmp_path, np.where(GREY > 100, 255, 0).astype(np.uint8), "1")
    np.testing.assert_array_equal(read_image(bilevel, 28, 28, 1)[..., 0], np.where(GREY > 100, 255, 0))
    assert read_image(save(tmp_path, GREY), 28, 28, 3).shape == (28, 28, 3)
    cmyk = save(tmp_path, np.stack([GREY] * 3, -1), "CMYK", name="a.tif")
    np.testing.assert_allclose(read_image(cmyk, 28, 28, 1)[..., 0].astype(int), GREY, atol=2)


def test_ink_on_paper_becomes_light_on_dark(tmp_path):
    paper = np.full((60, 40), 250, np.uint8)
    paper[20:40, 18:22] = 10
    read = read_image(save(tmp_path, paper), 28, 28, 1, light_on_dark=True)[..., 0]
    assert read[0, 0] == 5 and read[14, 13] > 200
    as_it_is = read_image(save(tmp_path, paper), 28, 28, 1)[..., 0]
    np.testing.assert_allclose(as_it_is.astype(int), 255 - read.astype(int), atol=1)
    dark = read_image(save(tmp_path, 255 - paper), 28, 28, 1, light_on_dark=True)[..., 0]
    np.testing.assert_allclose(dark.astype(int), read, atol=1)


def test_transparent_ink_of_either_colour_is_seen(tmp_path):
    for ink in (0, 255):
        pixels = np.zeros((20, 20, 4), np.uint8)
        pixels[5:15, 9:11] = (ink, ink, ink, 255)
        read = read_image(save(tmp_path, pixels), 20, 20, 1, light_on_dark=True)[..., 0]
        assert read[10, 10] == 255 and read[0, 0] == 0, ink


def test_the_aspect_is_kept_and_padded_with_the_border(tmp_path):
    wide = np.full((10, 40, 3), (200, 30, 40), np.uint8)
    wide[4:6, 18:22] = 255
    read = read_image(save(tmp_path, wide), 20, 20, 3)
    assert (read[:7] == (200, 30, 40)).all() and (read[13:] == (200, 30, 40)).all()
    assert (read[9:11, 9:11].mean((0, 1)) > (210, 80, 80)).all()


def test_a_small_drawing_is_cut_out_and_centred(tmp_path):
    paper = np.full((300, 200), 240, np.uint8)
    paper[30:70, 20:40] = 40  # a bar of 40 x 20 in a corner
    read = read_image(save(tmp_path, paper), 28, 28, 1, light_on_dark=True, margin=1 / 7)[..., 0]
    expected = np.zeros((28, 28), np.uint8)
    expected[4:24, 9:19] = 255
    np.testing.assert_array_equal(read, expected)
    blank = np.full((300, 200), 240, np.uint8)
    assert read_image(save(tmp_path, blank), 28, 28, 1, light_on_dark=True, margin=1 / 7).max() == 15


def test_exif_turns_the_picture(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise by a quarter
    array = np.zeros((28, 28), np.uint8)
    array[:14] = 255
    read = read_image(save(tmp_path, array, exif=exif), 28, 28, 1)[..., 0]
    np.testing.assert_array_equal(read, np.rot90(array, -1))


def test_errors_are_one_line_that_names_the_file(tmp_path):
    text = tmp_path / "note.png"
    text.write_text("no image")
    whole = save(tmp_path, np.random.default_rng(0).integers(0, 255, (64, 64), dtype=np.uint8), name="cut.png")
    whole.write_bytes(whole.read_bytes()[:900])
    for path, message in [
        (tmp_path / "none.png", "there is no file"),
        (tmp_path, "is a folder"),
        (text, "not an image"),
        (whole, "damaged"),
    ]:
        with pytest.raises(UserError, match=message) as error:
            read_image(path, 28, 28, 1)
        assert str(path) in str(error.value) and "\n" not in str(error.value)
