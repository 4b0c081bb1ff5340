"""Which frames of a video are kept, and that they are those, whatever the file is like."""

from fractions import Fraction
import itertools

import av
import numpy as np
from PIL import Image
import pytest

from support import clips
from tfds_microlens import decoding
from tfds_microlens import fetch
from tfds_microlens import video_frames
from tfds_microlens.media_sources import MediaError
from tfds_microlens.video_frames import choose_frames
from tfds_microlens.video_frames import read_frames


@pytest.mark.parametrize(
  ("num_frames", "frames", "interval", "expected"),
  [
    (100, 5, 1, [48, 49, 50, 51, 52]),
    (101, 5, 1, [48, 49, 50, 51, 52]),
    (100, 5, 5, [40, 45, 50, 55, 60]),
    (100, 1, 7, [50]),
    (100, 4, 1, [48, 49, 51, 52]),  # an odd interval leaves the middle out
    (100, 4, 2, [47, 49, 51, 53]),
    (100, 2, 5, [47, 53]),
    (100, 10, 1, [45, 46, 47, 48, 49, 51, 52, 53, 54, 55]),
    (3, 5, 1, [0, 0, 1, 2, 2]),
    (1, 5, 25, [0, 0, 0, 0, 0]),
    (1, 4, 1, [0, 0, 0, 0]),
  ],
)
def test_frames_are_those_around_the_middle(num_frames, frames, interval, expected):
  chosen = choose_frames(num_frames, frames, interval)
  assert chosen.tolist() == expected
  assert chosen.dtype == np.int64


@pytest.mark.parametrize(
  ("num_frames", "frames", "interval", "expected"),
  [
    (100, 5, 1, [46, 47, 48, 49, 50]),
    (100, 4, 1, [46, 47, 49, 50]),
    (8, 5, 1, [0, 1, 2, 3, 4]),
    (60, 5, 25, [9, 34, 59, 59, 59]),  # the first would lie before the start: from frame 9 on, as far as there are some
    (7, 5, 1, [6, 6, 6, 6, 6]),
    (1000, 5, 25, [448, 473, 498, 523, 548]),
  ],
)
def test_the_reference_is_two_frames_early_and_falls_back_to_the_start(num_frames, frames, interval, expected):
  assert choose_frames(num_frames, frames, interval, reference=True).tolist() == expected


def test_no_frames_cannot_be_chosen():
  with pytest.raises(ValueError, match="0 frames, 5 wanted"):
    choose_frames(0, 5)


_ENCODERS = {
  "h264": {"codec": "libx264", "g": 12, "bf": 3},
  "h264 with open groups": {"codec": "libx264", "g": 7, "bf": 3, "x264-params": "open-gop=1:b-pyramid=normal"},
  "h264 with one key frame": {"codec": "libx264", "g": 250, "bf": 2},
  "h264 of key frames": {"codec": "libx264", "g": 1},
  "hevc": {"codec": "libx265", "x265-params": "keyint=13:bframes=4:log-level=none:pools=1:frame-threads=1"},
  "hevc in layers": {
    "codec": "libx265", "x265-params": "keyint=50:bframes=4:temporal-layers=3:log-level=none:pools=1:frame-threads=1",
  },
  "hevc with open groups": {
    "codec": "libx265", "x265-params": "keyint=10:open-gop=1:bframes=4:log-level=none:pools=1:frame-threads=1",
  },
  "vp9": {"codec": "libvpx-vp9", "g": 12, "crf": 20, "b": 0, "cpu-used": 8, "deadline": "realtime"},
  "vp9 with hidden frames": {"codec": "libvpx-vp9", "g": 30, "crf": 20, "b": 0, "cpu-used": 5, "auto-alt-ref": 1},
  "av1": {"codec": "libsvtav1", "g": 15, "crf": 20, "preset": 12, "svtav1-params": "lp=1"},
}  # fmt: skip


@pytest.mark.parametrize("encoder", _ENCODERS)
def test_seeking_finds_the_frames_that_decoding_everything_does(tmp_path, encoder):
  path = clips.write_clip(tmp_path / "a.mp4", clips.pictures(41), **_ENCODERS[encoder])
  for number, interval in ((5, 1), (3, 6), (2, 1)):
    sought, count = read_frames(path, frames=number, size=40, interval=interval)
    everything, counted = read_frames(path, frames=number, size=40, interval=interval, seek=False)
    assert count == counted == 41
    assert [clips.shown_index(frame) for frame in sought] == choose_frames(41, number, interval).tolist()
    assert np.array_equal(sought, everything)


# Whose key frames do not hold all that their frames need: a palette comes with the first packet alone.
_PALETTES = {
  "grey in QuickTime": {"codec": "qtrle", "pix_fmt": "gray", "container": "mov"},
  "raw in AVI": {"codec": "rawvideo", "pix_fmt": "pal8", "container": "avi"},
}
_OTHER_ENCODERS = _PALETTES | {
  "mpeg4": {"codec": "mpeg4", "g": 5},
  "mjpeg": {"codec": "mjpeg", "pix_fmt": "yuvj420p", "container": "mov"},
  "cinepak": {"codec": "cinepak", "pix_fmt": "rgb24", "container": "avi"},
  "vp8": {"codec": "libvpx", "container": "webm", "g": 5, "cpu-used": 8, "deadline": "realtime"},
  "h264 in Matroska": {"container": "matroska", "g": 5, "bf": 2},
}


@pytest.mark.parametrize("encoder", _OTHER_ENCODERS)
def test_frames_are_right_whether_a_codec_can_be_sought_in_or_not(tmp_path, encoder):
  path = clips.write_clip(tmp_path / "a.mp4", clips.pictures(21), **_OTHER_ENCODERS[encoder])
  frames, count = read_frames(path, size=32)
  assert count == 21
  assert [clips.shown_index(frame) for frame in frames] == [8, 9, 10, 11, 12]
  assert np.array_equal(frames, read_frames(path, size=32, seek=False)[0])


def test_a_file_whose_frames_can_be_sought_is_not_decoded_to_its_end(tmp_path):
  path = clips.write_clip(tmp_path / "a.mp4", clips.pictures(41), g=10)
  clips.blank_packets(path, range(30, 41))
  frames, count = read_frames(path, size=32)
  assert count == 41
  assert [clips.shown_index(frame) for frame in frames] == [18, 19, 20, 21, 22]
  assert read_frames(path, size=32, seek=False)[1] < 41, "its end cannot be decoded"


def test_reference_frames_are_earlier(tmp_path):
  path = clips.write_clip(tmp_path / "a.mp4", clips.pictures(40))
  frames, _ = read_frames(path, size=32, reference=True)
  assert [clips.shown_index(frame) for frame in frames] == [16, 17, 18, 19, 20]


def test_a_clip_of_one_frame_is_repeated(tmp_path):
  frames, count = read_frames(clips.write_clip(tmp_path / "a.mp4", clips.pictures(1)), size=24)
  assert count == 1
  assert frames.shape == (5, 24, 24, 3)
  assert np.ptp(frames, axis=0).max() == 0


@pytest.mark.parametrize("seek", [True, False])
def test_frames_count_not_time_where_the_rate_varies(tmp_path, seek):
  times = np.cumsum(np.tile([10, 200, 30, 70], 10))
  path = clips.write_clip(tmp_path / "a.mp4", clips.pictures(40), times=times.tolist(), g=8, bf=2)
  frames, count = read_frames(path, size=32, seek=seek)
  assert count == 40
  assert [clips.shown_index(frame) for frame in frames] == [18, 19, 20, 21, 22]


@pytest.mark.parametrize(("width", "height"), [(63, 47), (33, 90), (17, 16)])
def test_odd_sizes_and_any_aspect_become_a_square(tmp_path, width, height):
  path = clips.write_clip(tmp_path / "a.mp4", clips.pictures(9, width, height), pix_fmt="yuv444p", crf=5)
  frames, _ = read_frames(path, size=30)
  assert frames.shape == (5, 30, 30, 3)
  assert [clips.shown_index(frame) for frame in frames] == [2, 3, 4, 5, 6]
  assert (np.diff(frames[2, 15, :, 0].astype(int)) >= -2).all(), "the slope goes to the right"


def test_resizing_is_that_of_pillow(tmp_path):
  noise = np.random.default_rng(0).integers(0, 256, (3, 48, 64, 3), np.uint8)
  path = clips.write_clip(tmp_path / "a.mp4", noise, codec="libx264rgb", pix_fmt="rgb24", crf=0, preset="ultrafast")
  frames, _ = read_frames(path, frames=1, size=20)
  expected = np.asarray(Image.fromarray(noise[1]).resize((20, 20), Image.Resampling.BILINEAR))
  assert np.array_equal(frames[0], expected)


@pytest.mark.parametrize(
  ("matrix", "corner"),
  [
    ((1, 0, 0, 1), "top left"),
    ((0, 1, -1, 0), "top right"),  # a quarter turn clockwise
    ((-1, 0, 0, -1), "bottom right"),
    ((0, -1, 1, 0), "bottom left"),
    ((-1, 0, 0, 1), "top right"),  # mirrored
    ((0, 1, 1, 0), "top left"),
  ],
)
def test_frames_are_upright(tmp_path, matrix, corner):
  pixels = np.full((5, 48, 80, 3), 30, np.uint8)
  pixels[:, :16, :16] = 230
  pixels[:, :16, 16:32] = 130  # to the right of the bright corner, so that a mirror image is told from a turn
  path = clips.write_clip(tmp_path / "a.mp4", pixels, crf=5)
  clips.turn(path, matrix)
  frame = read_frames(path, frames=1, size=60)[0][0, :, :, 1].astype(int)
  corners = {
    "top left": frame[:8, :8], "top right": frame[:8, -8:],
    "bottom left": frame[-8:, :8], "bottom right": frame[-8:, -8:],
  }  # fmt: skip
  assert max(corners, key=lambda name: corners[name].mean()) == corner
  turned = {(1, 0, 0, 1): pixels, (-1, 0, 0, -1): pixels[:, ::-1, ::-1], (-1, 0, 0, 1): pixels[:, :, ::-1]}
  turned |= {(0, 1, -1, 0): np.rot90(pixels, -1, (1, 2)), (0, -1, 1, 0): np.rot90(pixels, 1, (1, 2))}
  turned |= {(0, 1, 1, 0): pixels.transpose(0, 2, 1, 3)}
  expected = Image.fromarray(np.ascontiguousarray(turned[matrix][2])).resize((60, 60), Image.Resampling.BILINEAR)
  assert np.abs(np.asarray(expected)[:, :, 1].astype(int) - frame).max() < 12


@pytest.mark.parametrize("space", [1, 6, 9], ids=["BT.709", "BT.601", "BT.2020"])
@pytest.mark.parametrize("value_range", [1, 2], ids=["limited", "full"])
def test_colours_are_those_that_were_filmed(tmp_path, space, value_range):
  colours = np.array([[200, 60, 40], [30, 180, 90], [40, 70, 220], [250, 250, 250], [4, 4, 4]])
  pixels = np.repeat(colours, 16, axis=0)[None, None].repeat(3, 0).repeat(32, 1).astype(np.uint8)
  path = clips.write_clip(tmp_path / "a.mp4", pixels, crf=2, colour=(space, value_range))
  frame = read_frames(path, frames=1, size=80)[0][0]
  assert np.abs(frame[16, 8::16].astype(int) - colours).max() <= 5


_INTERLACED = {"flags": "+ildct+ilme", "x264-params": "interlaced=1"}


@pytest.mark.parametrize(
  ("pix_fmt", "options"),
  [("yuv420p", {}), ("yuv420p", _INTERLACED), ("yuv422p", _INTERLACED), ("yuv420p10le", {}), ("yuv422p10le", {})],
)
def test_colours_at_edges_are_those_that_ffmpeg_gives(tmp_path, pix_fmt, options):
  """`ffmpeg -i FILE -pix_fmt rgb24` puts `scale=flags=bicubic` before the format wanted."""
  squares = np.random.default_rng(0).integers(0, 256, (3, 8, 8, 3)).astype(np.uint8).repeat(8, 1).repeat(8, 2)
  path = clips.write_clip(tmp_path / "a.mp4", np.roll(squares, (3, 5), (1, 2)), pix_fmt=pix_fmt, crf=4, **options)
  with av.open(str(path)) as container:
    decoded = [*container.decode(video=0)][1]
  assert decoded.interlaced_frame == bool(options)
  frame = read_frames(path, frames=1, size=64)[0][0]
  assert video_frames.psnr(frame, _by_ffmpeg(decoded)) > 60


def _by_ffmpeg(frame) -> np.ndarray:
  graph = av.filter.Graph()
  nodes = [
    graph.add_buffer(width=frame.width, height=frame.height, format=frame.format, time_base=Fraction(1, 25)),
    graph.add("scale", "flags=bicubic"), graph.add("format", "pix_fmts=rgb24"), graph.add("buffersink"),
  ]  # fmt: skip
  for one, other in itertools.pairwise(nodes):
    one.link_to(other)
  graph.configure()
  graph.push(frame)
  return graph.pull().to_ndarray()


def test_frames_are_counted_where_the_container_does_not_say(tmp_path):
  path = clips.write_clip(
    tmp_path / "a.mp4", clips.pictures(31), codec="libvpx-vp9", container="webm", crf=20, b=0, deadline="realtime",
    **{"cpu-used": 8},
  )  # fmt: skip
  with av.open(str(path)) as container:
    assert container.streams.video[0].frames == 0
  frames, count = read_frames(path, size=32)
  assert count == 31
  assert [clips.shown_index(frame) for frame in frames] == [13, 14, 15, 16, 17]


def test_frames_are_counted_where_some_cannot_be_decoded(tmp_path):
  path = clips.write_clip(tmp_path / "a.mp4", clips.pictures(40), g=1)
  clips.blank_packets(path, range(18, 24))
  frames, count = read_frames(path, size=32)
  assert count == 34
  # What is left is 0 to 17 and 24 to 39; its middle is its 17th.
  assert [clips.shown_index(frame) for frame in frames] == [15, 16, 17, 24, 25]


def test_frames_that_an_edit_list_cuts_off_do_not_count(tmp_path):
  # Frames before time 0 are in the file, for others need them, and are not shown.
  path = clips.write_clip(
    tmp_path / "a.mp4", clips.pictures(30), times=range(-400, 800, 40), g=30, mux={"avoid_negative_ts": "disabled"}
  )
  frames, count = read_frames(path, size=32)
  everything, counted = read_frames(path, size=32, seek=False)
  assert count == counted
  assert np.array_equal(frames, everything)


@pytest.mark.parametrize("kind", clips.BAD_VIDEOS)
def test_a_bad_file_is_refused_with_the_reason(tmp_path, kind):
  make, reason = clips.BAD_VIDEOS[kind]
  make(tmp_path / "a.mp4")
  with pytest.raises(MediaError, match=reason):
    read_frames(tmp_path / "a.mp4")


def test_every_jpeg_is_within_36_db():
  rng = np.random.default_rng(0)
  smooth = np.asarray(Image.fromarray(rng.integers(0, 256, (8, 8, 3), np.uint8)).resize((224, 224)))
  noise = rng.integers(0, 256, (224, 224, 3), np.uint8)
  sizes = []
  for frame in (smooth, np.clip(smooth + rng.normal(0, 20, smooth.shape), 0, 255).astype(np.uint8), noise, noise * 0):
    coded = video_frames.encode_jpeg(frame)
    assert video_frames.psnr(video_frames.decode_jpeg(coded), frame) >= 36
    sizes.append(len(coded))
  assert sizes == sorted(sizes[:3]) + sizes[3:]


def test_a_missing_library_is_named_with_what_to_install(monkeypatch):
  monkeypatch.setitem(__import__("sys").modules, "av", None)
  decoding.import_av.cache_clear()
  try:
    with pytest.raises(fetch.PrepareError, match=r"PyAV.*pip install av"):
      decoding.require_libraries()
  finally:
    decoding.import_av.cache_clear()
