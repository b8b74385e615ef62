from __future__ import annotations

import io

import numpy as np
import pytest
from matplotlib.image import imread

from factotum.core.checks import UserError
from factotum.training import video
from factotum.training.video import as_frame, evenly, fit_height, picture_strip, png_bytes, write_film

FRAMES = [np.full((31, 45, 3), 8 * i, np.uint8) for i in range(20)]


@pytest.mark.parametrize("shape", [(5, 7), (5, 7, 1), (5, 7, 2), (5, 7, 3), (5, 7, 4)])
def test_any_picture_becomes_three_channels(shape):
    picture = np.random.default_rng(0).integers(0, 255, shape).astype(np.uint8)
    frame = as_frame(picture)
    assert frame.shape == (5, 7, 3)
    assert (frame[..., 0] == picture.reshape(5, 7, -1)[..., 0]).all()


@pytest.mark.parametrize("bad", [np.zeros((4, 4, 3)), np.zeros(4, np.uint8)])
def test_what_is_no_picture_is_refused(bad):
    with pytest.raises(UserError, match="uint8 picture"):
        as_frame(bad)


@pytest.mark.parametrize(
    ("size", "height"), [((8, 8), 64), ((480, 480), 128), ((100, 150), 128), ((131, 97), 128)]
)
def test_fit_height_keeps_shape_and_mean(size, height):
    frame = np.random.default_rng(0).integers(0, 255, (*size, 3)).astype(np.uint8)
    fitted = fit_height(frame, height)
    assert fitted.shape[0] == height
    assert abs(fitted.shape[1] / height - size[1] / size[0]) < 0.05
    assert abs(float(fitted.mean()) - float(frame.mean())) < 6


def test_evenly_takes_the_ends():
    assert evenly(range(100), 5) == [0, 25, 50, 74, 99]
    assert evenly([1, 2], 5) == [1, 2]


def test_a_strip_shows_first_and_last_frame_as_png():
    strip = imread(io.BytesIO(png_bytes(picture_strip(FRAMES, count=4, height=31))))
    assert strip.shape[:2] == (31, 4 * 45 + 3 * 4)
    assert (strip[0, 0, :3] * 255).round().tolist() == [0, 0, 0]
    assert (strip[0, -1, :3] * 255).round().tolist() == [152, 152, 152]
    with pytest.raises(UserError, match="at least one frame"):
        picture_strip([])


@pytest.mark.parametrize("suffix", [".gif", ".mp4"])
def test_films_hold_all_frames(tmp_path, suffix):
    imageio = pytest.importorskip("imageio.v2")
    pytest.importorskip("imageio_ffmpeg")
    path = tmp_path / f"film{suffix}"
    write_film(path, FRAMES)
    frames = [np.asarray(frame) for frame in imageio.get_reader(path).iter_data()]
    assert len(frames) == len(FRAMES)
    assert frames[0].shape[:2] == (32, 46)
    assert abs(float(frames[-1][..., :3].mean()) - 152) < 4


def test_what_cannot_be_filmed_says_why(tmp_path, monkeypatch):
    with pytest.raises(UserError, match=r"\.gif or \.mp4, got 'film\.avi'"):
        write_film(tmp_path / "film.avi", FRAMES)
    with pytest.raises(UserError, match="at least one frame"):
        write_film(tmp_path / "film.gif", [])
    monkeypatch.setattr(video, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install 'factotum\[report\]'"):
        write_film(tmp_path / "film.gif", FRAMES)
    assert not list(tmp_path.iterdir())
