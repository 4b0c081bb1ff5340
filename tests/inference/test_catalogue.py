"""What people see of items is of the data that the run was trained on."""

import pytest

from mlrec import config as config_lib
from mlrec.inference.catalogue import Catalogue
from mlrec.ingest import ingest
from support import pictures


@pytest.fixture
def own(tmp_path):
  """An ingested folder with a cover and a title, of ids that the demo has too."""
  (tmp_path / "log.csv").write_text("user,item\n" + "".join(f"7,{item}\n" for item in (3, 2, 1)))
  (tmp_path / "items.csv").write_text("item,title\n2,mine\n")
  (tmp_path / "media").mkdir()
  (tmp_path / "media" / "2.jpg").write_bytes(pictures.coded(pictures.halves(), "JPEG"))
  ingest(tmp_path / "log.csv", to=tmp_path / "own", items=tmp_path / "items.csv", media=tmp_path / "media", cover=16)
  return tmp_path / "own"


def _data(source, **values):
  config = config_lib.with_values(
    config_lib.default_config(), {"data.source": str(source)} | {f"data.{key}": value for key, value in values.items()}
  )
  return config.data


@pytest.mark.parametrize("named", ["", "microlens/demo-items-cover224-audio10s"])
def test_an_ingested_folder_stands_for_the_release_that_a_config_names(named, own):
  catalogue = Catalogue.of(_data(own, content=named, videos="microlens/demo-videos-5x64"))
  assert [catalogue.title(item) for item in (1, 2, 3)] == ["", "mine", ""]
  assert catalogue.picture(2)
  assert catalogue.picture(1) is None
  assert catalogue.frames(2) == []


def test_a_folder_that_is_gone_has_no_pictures_rather_than_those_of_a_release(tmp_path):
  catalogue = Catalogue.of(_data(tmp_path / "gone", videos="microlens/demo-videos-5x64"))
  assert not catalogue.has_pictures
  assert not catalogue.has_titles
