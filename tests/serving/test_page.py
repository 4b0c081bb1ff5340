"""The service's page in a headless Chromium, where there is one (`chromium`, and `playwright` of PyPI to drive it)."""

import io
import shutil
import threading

import numpy as np
import pytest

import mlrec
from mlrec.content.titles import Titles
from mlrec.inference.catalogue import Catalogue
from mlrec.inference.catalogue import Pictures
from support.tiny_runs import ITEMS

pytest.importorskip("fastapi")
sync_api = pytest.importorskip("playwright.sync_api")

import uvicorn  # noqa: E402

from mlrec.serving import app  # noqa: E402
from mlrec.serving import server  # noqa: E402
from mlrec.serving.media import Media  # noqa: E402
from mlrec.serving.service import Service  # noqa: E402

_CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = [pytest.mark.slow, pytest.mark.skipif(_CHROMIUM is None, reason="there is no Chromium")]
_EVIL = "<img src=x onerror=document.title='hurt'><script>document.title='hurt'</script>"


@pytest.fixture(scope="module")
def url(finished, tmp_path_factory):
  """A service whose titles are markup; items 1 to 3 have frames, 1 a video that nothing plays, 4 one in VP8."""
  recommender = mlrec.Recommender.load(finished)
  titles = Titles("titles", {item: f"{_EVIL} {item}" for item in range(1, ITEMS + 1)})
  videos = Pictures(np.arange(1, 4), lambda places: [(place + 1, [_jpeg(n) for n in range(3)]) for place in places])
  folder = tmp_path_factory.mktemp("media")
  (folder / "1.mp4").write_bytes(b"no video at all")
  _write_video(folder / "4.webm")
  service = Service(recommender, Catalogue(titles, videos=videos), Media.of(folder))
  bound = server.bind("127.0.0.1", 0)
  running = uvicorn.Server(uvicorn.Config(app.create(service), log_level="warning"))
  thread = threading.Thread(target=running.run, kwargs={"sockets": [bound]})
  thread.start()
  yield server.url(bound)
  running.should_exit = True
  thread.join()


def _jpeg(shade: int) -> bytes:
  from PIL import Image

  file = io.BytesIO()
  Image.new("RGB", (32, 32), (80 * shade, 0, 0)).save(file, "JPEG")
  return file.getvalue()


def _write_video(path):
  import av

  with av.open(str(path), "w") as container:
    stream = container.add_stream("libvpx", rate=10)
    stream.width = stream.height = 64
    stream.pix_fmt = "yuv420p"
    for shade in range(10):
      frame = av.VideoFrame.from_ndarray(np.full((64, 64, 3), 20 * shade, np.uint8), format="rgb24")
      container.mux(stream.encode(frame))
    container.mux(stream.encode())


@pytest.fixture(scope="module")
def browser():
  with sync_api.sync_playwright() as playwright:
    # As root, as in containers, there is no sandbox to be had.
    browser = playwright.chromium.launch(executable_path=_CHROMIUM, args=["--no-sandbox"])
    yield browser
    browser.close()


@pytest.fixture
def page(browser, url):
  """The page, listed, in a window of its own; what its console says of errors fails the test."""
  context = browser.new_context(viewport={"width": 390, "height": 844})
  page = context.new_page()
  page.set_default_timeout(60_000)
  errors = []
  page.on("pageerror", lambda error: errors.append(str(error)))
  page.goto(url)
  page.wait_for_selector("#items .card")
  yield page
  context.close()
  assert errors == []


def _until(page, expression):
  """Returns once that holds; playwright's own wait evaluates texts in the page, which the page forbids."""
  for _ in range(600):
    if page.evaluate(expression):
      return
    page.wait_for_timeout(100)
  raise AssertionError(f"it does not come to hold: {expression}")


def _watch(page, item):
  page.evaluate(f"ask('items/{item}').then(watch)")
  _until(page, f"watched.length && watched.at(-1).id === {item}")
  page.wait_for_selector("#recommended .card")


def test_a_click_is_watched_and_recommended_after(page, url):
  page.locator("#items .card").first.click()
  page.wait_for_selector("#recommended .card")
  first = page.locator("#recommended .card").all_inner_texts()
  assert len(first) == 24
  expected = page.evaluate("""ask("recommend", { history: watched.map((item) => item.id), k: 24, why: true })
    .then((answer) => answer.items.map((item) => item.why.some((other) => other.near)))""")
  assert ["near " in text for text in first] == expected
  page.locator("#recommended .card").first.click()
  _until(page, "document.querySelectorAll('#watched .card').length === 2")
  (asked, watched) = page.evaluate("[watched.map((item) => item.id), watched.length]")
  assert watched == 2
  with page.expect_response("**/recommend") as answered:
    page.reload()
  assert answered.value.request.post_data_json["history"] == asked, "a page that is loaded again knows them still"
  page.locator("#forget").click()
  page.wait_for_selector("#nothing:visible")
  assert page.locator("#recommended .card").count() == 0


def test_titles_are_text_whatever_is_in_them(page):
  _watch(page, 3)
  assert page.locator("#name").inner_text() == f"{_EVIL} 3"
  assert page.title() == "run"
  assert page.locator("img[src=x]").count() == 0


def test_frames_are_shown_in_turn_until_they_are_paused(page):
  _watch(page, 2)
  page.wait_for_selector("#turn:visible")
  shown = []
  for _ in range(4):
    shown.append(page.locator("#stage img").get_attribute("src"))
    _until(page, f"document.querySelector('#stage img').getAttribute('src') !== {shown[-1]!r}")
  assert {"/frames/0/2", "/frames/1/2", "/frames/2/2"} <= set(shown)
  page.locator("#turn").click()
  assert page.locator("#turn").inner_text() == "Play"


def test_a_video_is_played(page):
  _watch(page, 4)
  _until(page, "document.querySelector('#stage video').currentTime > 0")
  assert page.evaluate("document.querySelector('#stage video').videoWidth") == 64


def test_where_a_browser_cannot_play_the_video_its_frames_are_shown(page):
  _watch(page, 1)
  page.wait_for_selector("#turn:visible")
  assert page.locator("#note").inner_text() == "This browser cannot play the video."
  assert page.locator("#stage video").count() == 0
  assert page.locator("#stage img").count() == 1


def test_an_item_without_any_picture_is_its_id(page):
  _watch(page, 50)
  assert page.locator("#stage .tile").inner_text() == "50"


def test_the_catalogue_is_searched_as_one_types(page):
  page.fill("#search", " 77")
  _until(page, "document.querySelectorAll('#items .card').length === 1")
  page.fill("#search", "nothing has this")
  page.wait_for_selector("#none:visible")


def test_nothing_is_wider_than_a_phone(page):
  _watch(page, 2)
  assert page.evaluate("document.documentElement.scrollWidth") == 390


def test_the_description_is_shown_and_tried(browser, url):
  page = browser.new_page()
  page.goto(f"{url}docs")
  page.locator("summary", has_text="POST").first.click()
  page.locator("details[open] button").click()
  _until(page, "document.querySelector('details[open] pre:not([hidden])')?.textContent.startsWith('200')")
  page.close()
