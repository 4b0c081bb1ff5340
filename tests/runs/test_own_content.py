"""Runs on a log of one's own read its own content or none, and say where what they have read lies."""

from ml_collections import ConfigDict
import pytest

from mlrec import config as config_lib
from mlrec.config import ConfigError
from mlrec.content import modalities
from mlrec.data import ingested
from mlrec.inference.recommender import Recommender
from mlrec.ingest import ingest
from mlrec.runs import experiment
from mlrec.runs.workdir import Workdir
from support import pictures

# Releases with items of the same integers.
_RELEASE = {"data.videos": "microlens/demo-videos-5x64", "data.content": "microlens/demo-items-cover224-audio10s"}
_TINY = {
  "train.epochs": 1, "train.batch_size": 8, "data.min_length": 3, "log.tensorboard": False, "eval.batch_size": 8,
  "model.dim": 8, **_RELEASE,
}  # fmt: skip


@pytest.fixture
def log(tmp_path):
  path = tmp_path / "log.csv"
  path.write_text("user,item\n" + "".join(f"{user},{(user + n) % 9 + 1}\n" for user in range(1, 13) for n in range(6)))
  return path


@pytest.fixture
def with_covers(log, tmp_path):
  media = tmp_path / "media"
  media.mkdir()
  for item in (1, 2):
    (media / f"{item}.png").write_bytes(pictures.coded(pictures.halves()))
  ingest(log, to=tmp_path / "covers", media=media, cover=16)
  return tmp_path / "covers"


def _config(source, **overrides):
  return config_lib.with_values(config_lib.default_config(), {"data.source": str(source), **_TINY, **overrides})


def test_a_log_without_videos_is_refused_and_not_given_those_of_a_release(log, tmp_path):
  ingest(log, to=tmp_path / "own")
  video = {"name": "video", "encoder": "r3d_r18", "mode": "scratch", "frames": 1, "size": 16}
  config = _config(tmp_path / "own", **{"model.item": ConfigDict(video)})
  message = r"config\.data\.videos = 'microlens/demo-videos-5x64' is of a release.* that has none: .*--media=DIR"
  with pytest.raises(ConfigError, match=message):
    experiment.run(config, tmp_path / "run", say=lambda line: None)
  assert not Workdir(tmp_path / "run").config.exists()


def test_content_of_a_sort_that_the_log_has_not_is_refused_beside_one_that_it_has(with_covers):
  data = _config(with_covers).data
  assert modalities.get("cover").from_config(data).items.tolist() == [1, 2]
  for content, option in (("title", "--items=FILE"), ("audio", "--media=DIR"), ("frames", "--media=DIR")):
    with pytest.raises(ConfigError, match=f"is of a release, the item tower reads .*{option}"):
      modalities.get(content).named(data)


def test_what_a_run_keeps_says_where_its_content_lies(with_covers, tmp_path):
  said, config = [], _config(with_covers)
  config.model = ConfigDict({"name": "item_knn"})
  experiment.run(config, tmp_path / "run", say=said.append)
  assert any(f"config.data.content = '{_RELEASE['data.content']}' is not read: {with_covers}" in line for line in said)
  kept = Workdir(tmp_path / "run").saved_config()["data"]
  assert kept["content"] == str(with_covers)
  assert kept["videos"] == ""
  # Cards of models show this config.
  loaded = Recommender.load(tmp_path / "run").loaded.config
  assert "microlens/" not in str(config_lib.to_json(loaded)["data"])
  # The same command, which names the release, finds it.
  again = []
  experiment.run(config, tmp_path / "run", say=again.append)
  assert any("is finished" in line for line in again)


def test_places_are_those_of_a_folder_in_place_of_a_release_alone(with_covers):
  data = {"source": str(with_covers), "videos": "microlens/own-videos-5x224", "content": "titles.csv"}
  assert ingested.places(data) == {}
  assert ingested.places({**data, "source": "microlens/demo-sequences", "videos": ""}) == {}
