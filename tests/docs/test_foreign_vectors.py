"""The script of the page on content that has another project's encoder make vectors, as it stands there."""

import re
import sys
import types

import numpy as np

from mlrec.content import vectors
from support.tiny_runs import ROOT


def _script() -> str:
  page = (ROOT / "docs" / "guides" / "content.md").read_text(encoding="utf-8")
  return re.search(r"<!-- A test runs this script.*?```python\n(.*?)```", page, re.S)[1]


class _Encoder:
  """In the place of the real one: vectors that tell what was given."""

  def __init__(self, name):
    assert name == "Qwen/Qwen3-VL-Embedding-2B"

  def encode(self, inputs, *, batch_size, normalize_embeddings):
    assert batch_size > 0
    assert normalize_embeddings
    return np.array([[len(one.get("text", "")), len(one.get("video", "")), len(one)] for one in inputs])


def test_what_it_writes_is_read_with_each_vector_at_its_item(tmp_path, monkeypatch):
  module = types.ModuleType("sentence_transformers")
  module.SentenceTransformer = _Encoder
  monkeypatch.setitem(sys.modules, "sentence_transformers", module)
  monkeypatch.chdir(tmp_path)
  (tmp_path / "MicroLens-50k_titles.csv").write_text("12,a title\n3,\n7,other\n", encoding="utf-8")
  (tmp_path / "MicroLens-50k_videos").mkdir()
  for item in (9, 12):
    (tmp_path / "MicroLens-50k_videos" / f"{item}.mp4").touch()
  for _ in range(2):  # a second time over the first
    exec(compile(_script(), "content.md", "exec"), {})
  # Dense ids: padding, then originals in any order; the items 3 and 4 have neither title nor video.
  found = vectors.read(tmp_path / "vectors" / "qwen3_vl_2b", np.array([0, 9, 3, 12, 7, 4]))
  path = len("MicroLens-50k_videos/12.mp4")
  wanted = [[0, 0, 0], [0, path - 1, 1], [0, 0, 0], [7, path, 2], [5, 0, 1], [0, 0, 0]]
  np.testing.assert_array_equal(found.vectors, wanted)
  assert found.vectors.dtype == np.float32
  assert sorted(found.missing) == [3, 4]
