import pytest

from support import demos
from tfds_microlens import demo
from tfds_microlens import demo_videos


@pytest.fixture
def offline(monkeypatch):
  """No server: the loopback port 9 refuses connections."""
  monkeypatch.setenv("MICROLENS_MIRROR", "http://127.0.0.1:9/")


@pytest.fixture(scope="session")
def made():
  """A demo of as few items as there can be."""
  return demo.generate(num_users=20, num_items=120)


@pytest.fixture(scope="session")
def made_small(made):
  """Twelve of them."""
  return demos.first_items(made, 12)


@pytest.fixture(scope="session")
def demo_clips(made, tmp_path_factory):
  """The folder of the clips of `made`."""
  return demo_videos.write(made, tmp_path_factory.mktemp("clips"))
