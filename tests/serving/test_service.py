"""The web service, in this process."""

import concurrent.futures
import json
import threading

import numpy as np
import pytest

import mlrec
from mlrec.content.titles import Titles
from mlrec.data.interactions import DataError
from mlrec.inference.catalogue import Catalogue
from mlrec.inference.catalogue import Pictures
from mlrec.inference.recommender import Filters
from mlrec.metrics import ScoresNotFinite
from support.tiny_runs import ITEMS
from support.tiny_runs import USERS

pytest.importorskip("fastapi")

from starlette.testclient import TestClient

from mlrec.serving import app
from mlrec.serving.media import Media
from mlrec.serving.service import Service

_JPEG = b"\xff\xd8\xff"


@pytest.fixture(scope="module")
def recommender(finished):
  return mlrec.Recommender.load(finished)


@pytest.fixture(scope="module")
def service(recommender, tmp_path_factory):
  """Titles of all items but 9, covers of 1 and 2, videos of 2 and 3, of which 4's holds no frame; files of 5 and 6."""
  titles = Titles("titles", {item: f"<b>Clip</b> {item}" for item in range(1, ITEMS + 1) if item != 9})
  covers = {1: [_JPEG + b"cover 1"], 2: [_JPEG + b"cover 2"]}
  videos = {2: [_JPEG + bytes([n]) for n in range(5)], 3: [_JPEG + bytes([n]) for n in range(5)], 4: []}
  folder = tmp_path_factory.mktemp("media")
  (folder / "5.mp4").write_bytes(bytes(range(200)))
  for below in ("a/b", "c", ".hidden"):
    (folder / below).mkdir(parents=True)
  (folder / "6.webm").write_bytes(b"webm")
  (folder / "a" / "b" / "6.MP4").write_bytes(b"mp4")
  (folder / "c" / "6.mp4").write_bytes(b"another mp4")
  (folder / ".hidden" / "7.mp4").write_bytes(b"hidden")
  (folder / "notes.txt").write_text("no video")
  return Service(recommender, Catalogue(titles, _pictures(covers), _pictures(videos)), Media.of(folder))


def _pictures(parts):
  items = np.array(sorted(parts))
  return Pictures(items, lambda places: [(int(items[place]), parts[int(items[place])]) for place in places])


@pytest.fixture(scope="module")
def client(service):
  with TestClient(app.create(service), raise_server_exceptions=False) as client:
    _until_ready(client)
    yield client


def _until_ready(client):
  for _ in range(2400):
    if client.get("/health").status_code == 200:
      return
    threading.Event().wait(0.05)
  raise AssertionError("the service does not become ready")


def _ids(answer):
  assert answer.status_code == 200, answer.text
  return [item["id"] for item in answer.json()["items"]]


def test_what_is_answered_is_what_the_recommender_recommends(client, recommender):
  by_user = client.post("/recommend", json={"user": 7, "k": 5, "why": True})
  expected = recommender.recommend_users([7], k=5)
  assert _ids(by_user) == expected.items[0]
  items = by_user.json()["items"]
  assert [item["score"] for item in items] == pytest.approx(expected.scores[0].tolist())
  reasons = recommender.why(recommender.history(7), expected.items[0])
  assert [[near["id"] for near in item["why"]] for item in items] == [[one for one, _ in row] for row in reasons]
  assert all(near["near"] == (near["nearness"] > 0.05) for item in items for near in item["why"])
  assert (
    _ids(client.post("/recommend", json={"history": [3, 4], "k": 40})) == recommender.recommend([[3, 4]], 40).items[0]
  )
  assert _ids(client.post("/similar", json={"item": 5, "k": 3})) == recommender.similar([5], k=3).items[0]
  assert "why" not in client.post("/recommend", json={"history": [3]}).json()["items"][0]


def test_what_fits_an_address_is_answered_to_get_as_well(client):
  for address, path, body in (
    ("/recommend?user=7&k=3", "/recommend", {"user": 7, "k": 3}),
    (
      "/recommend?history=3&history=4&seen=true&exclude=5",
      "/recommend",
      {"history": [3, 4], "seen": True, "exclude": [5]},
    ),
    ("/similar?item=3&only=7&only=8", "/similar", {"item": 3, "only": [7, 8]}),
  ):
    assert client.get(address).json() == client.post(path, json=body).json()


def test_filters_are_of_the_question_that_has_them(client, recommender):
  only = [20, 30, 40]
  questions = [
    {"history": [3, 4], "k": 3},
    {"history": [3, 4], "k": 3, "only": only, "exclude": [30]},
    {"history": [3, 4], "k": ITEMS, "seen": True},
  ]
  with concurrent.futures.ThreadPoolExecutor(3) as threads:
    found = [
      _ids(answer) for answer in threads.map(lambda question: client.post("/recommend", json=question), questions)
    ]
  assert found[0] == recommender.recommend([[3, 4]], 3).items[0]
  assert found[1] == recommender.recommend([[3, 4]], 3, Filters(only=only, exclude=[30])).items[0]
  assert {3, 4} <= set(found[2])


def test_questions_at_once_are_answered_each_its_own(client, recommender):
  users = [*range(1, 101)]
  with concurrent.futures.ThreadPoolExecutor(16) as threads:
    found = [_ids(answer) for answer in threads.map(lambda user: client.get(f"/recommend?user={user}"), users)]
  assert found == recommender.recommend_users(users).items


@pytest.mark.slow
@pytest.mark.parametrize("name", ["dssm", "nfm", "item_knn"])
def test_models_of_every_sort_are_served(name, run_tiny, tmp_path):
  """One that has a vector for each user, one that scores users and items together, and one that is not trained."""
  run_tiny(tmp_path / name, model={"name": name} | ({} if name == "item_knn" else {"dim": 8}), **{"train.epochs": 1})
  recommender = mlrec.Recommender.load(tmp_path / name)
  service = Service(recommender, Catalogue())
  assert service.warm()
  asked = [service.question(user=7, k=3, why=True), service.question(history=[3, 4], k=3), service.similar(5, k=3)]
  answers = [[item["id"] for item in answer] for answer in service.answer([question for question, _ in asked])]
  assert answers[0] == recommender.recommend_users([7], k=3).items[0]
  assert answers[1] == recommender.recommend([[3, 4]], k=3).items[0]
  assert answers[2] == recommender.similar([5], k=3).items[0]


def test_the_first_question_compiles_nothing(service, caplog):
  """Whatever its history's length, its number of items, and how many come at once."""
  import jax

  service.warm()
  lots = [*range(1, 90)] * 11
  with jax.log_compiles(), caplog.at_level("WARNING", logger="jax"):
    for k, histories in ((1, [[3]]), (100, [[3, 4]] * 30), (10, [lots] * 5), (20, [[5], [*range(1, 95)]])):
      asked = [service.question(history=history, k=k, why=True) for history in histories]
      service.answer([question for question, _ in [*asked, service.question(user=9, k=k), service.similar(4, k=k)]])
  assert [record.getMessage() for record in caplog.records if "Compiling" in record.getMessage()] == []


def test_items_that_are_not_known_are_passed_over_and_told(client, recommender):
  answer = client.post(
    "/recommend", json={"history": [7, 4000, "x", 9, 4000], "exclude": [5, -1], "only": [11, 12, 999]}
  )
  assert answer.json()["unknown"] == [4000, "x", 999, -1]
  assert _ids(answer) == recommender.recommend([[7, 9]], filters=Filters(only=[11, 12])).items[0]


@pytest.mark.parametrize(
  ("path", "body", "status", "message", "nearest"),
  [
    ("/recommend", {"user": USERS + 1}, 404, "there is no user 311", [308, 309, 310]),
    ("/recommend", {"user": "07"}, 404, "there is no user '07'", [6, 7, 8]),
    ("/recommend", {"user": " 7"}, 404, "there is no user ' 7'", [6, 7, 8]),
    ("/similar", {"item": "+5"}, 404, "there is no item '+5'", [1, 2, 3]),
    ("/recommend", {"user": "nobody"}, 404, "there is no user 'nobody'", [1, 2, 3]),
    ("/similar", {"item": 1000}, 404, "there is no item 1000", [98, 99, 100]),
    ("/recommend", {"history": [1000, 0]}, 422, "the history no item is known: there is no item 1000", [98, 99, 100]),
    ("/recommend", {"history": [1], "only": [0]}, 422, "of the items that `only` names none is known", [1, 2, 3]),
    ("/recommend", {"history": [1], "only": [2], "exclude": [2]}, 422, "the filters leave no item to recommend", None),
    ("/recommend", {}, 422, "expected one of user and history, not neither", None),
    ("/recommend", {"user": 1, "history": [2]}, 422, "expected one of user and history, not both", None),
    ("/recommend", {"user": 1, "k": 0}, 422, "k: input should be greater than or equal to 1, not 0", None),
    ("/recommend", {"user": 1, "k": 101}, 422, "k: input should be less than or equal to 100, not 101", None),
    ("/recommend", {"user": 1, "kk": 1}, 422, "unknown key 'kk': did you mean 'k'?", None),
    ("/recommend", {"history": []}, 422, "history: list should have at least 1 item", None),
    ("/recommend", {"history": [1] * 1001}, 422, "history: list should have at most 1000 items", None),
    ("/recommend", {"history": [True]}, 422, "history.0: input should be a valid integer, not True or", None),
    ("/recommend", {"history": [2**64]}, 422, "history.0: ", None),
    ("/recommend", {"history": ["x" * 1001]}, 422, "history.0: ", None),
    ("/recommend", [1], 422, "input should be a valid dictionary", None),
    ("/similar", {}, 422, "item: field required", None),
  ],
)  # fmt: skip
def test_what_cannot_be_answered_is_told_in_a_line(path, body, status, message, nearest, client):
  answer = client.post(path, json=body)
  assert answer.status_code == status
  assert message in answer.json()["error"]
  assert "\n" not in answer.json()["error"]
  assert len(answer.text) < 1000
  assert answer.json().get("nearest") == nearest


@pytest.mark.parametrize(
  ("content", "headers", "status", "message"),
  [
    (b"{", {}, 422, "the body is no JSON"),
    (b'{"history": [1]}', {"content-type": "text/plain"}, 422, "expected the header Content-Type: application/json"),
    (b'{"history": [' + b"9" * 5000 + b"]}", {}, 422, "the body holds a number of too many digits"),
    (b"[" * 100_000, {}, 422, "the body is nested too deeply"),
    (b'"\xff"', {}, 422, "the body is no JSON (it is not UTF-8)"),
    (b'{"user": 1, "k": 3, "k": 4}', {}, 422, "the key 'k' is there more than once"),
    (b'{"user": 1, "us\\u0065r": 1}', {}, 422, "the key 'user' is there more than once"),
    (b'{"user": {"a": 1, "a": 2}}', {}, 422, "the key 'a' is there more than once"),
    (b'{"history": ["\\ud800"]}', {}, 422, "unable to parse raw data as a unicode string"),
    (b'{"user": NaN}', {}, 422, "user: "),
    (b" " * (1 << 20) + b"{}", {}, 413, "the body exceeds 1,048,576 bytes"),
  ],
)
def test_bodies_that_are_none_are_told_in_a_line(content, headers, status, message, client):
  for body in (content, iter([content[:10], content[10:]])):
    answer = client.post("/recommend", content=body, headers={"content-type": "application/json", **headers})
    assert answer.status_code == status
    assert message in answer.json()["error"]


def test_a_key_that_an_address_names_twice_is_refused_but_where_it_is_a_list(client):
  answer = client.get("/recommend?history=3&history=4&k=5&k=6")
  assert (answer.status_code, answer.json()["error"]) == (422, "the key 'k' is there more than once")
  assert client.get("/items?text=a&text=b").status_code == 422
  assert client.get("/recommend?history=3&history=4&only=7&only=8").status_code == 200


def test_an_integer_may_be_asked_for_as_it_is_written(client):
  by_text, by_number = (client.post("/recommend", json={"history": [3, one], "k": 5}) for one in ("4", 4))
  assert _ids(by_text) == _ids(by_number)
  assert client.post("/recommend", json={"history": [3, "04", " 4", "4 ", "4.0"]}).json()["unknown"] == [
    "04", " 4", "4 ", "4.0",
  ]  # fmt: skip
  assert client.get("/items/4").status_code == 200
  for text in ("04", "%204", "4%20"):
    assert client.get(f"/items/{text}").status_code == 404


def test_what_answers_get_answers_head_alike_without_the_body(client):
  for address in (
    "/", "/docs", "/openapi.json", "/health", "/items", "/items/2", "/recommend?user=7", "/similar?item=3",
    "/pictures/1", "/frames/4/3", "/media/5", "/items/1000", "/recommend?user=7&user=8",
  ):  # fmt: skip
    get, head = client.get(address), client.head(address)
    assert (head.status_code, head.content) == (get.status_code, b""), address
    assert head.headers == get.headers, address
  assert client.head("/nothing").status_code == 404


@pytest.mark.parametrize(
  ("method", "address", "status", "allow", "message"),
  [
    ("GET", "/nothing", 404, None, "there is nothing at '/nothing': /docs says what there is"),
    ("GET", "/items/", 404, None, "there is no item ''"),
    ("DELETE", "/recommend", 405, "GET, HEAD, POST", "'/recommend' is not asked by 'DELETE', but by GET, HEAD, POST"),
    ("POST", "/items/2", 405, "GET, HEAD", "'/items/2' is not asked by 'POST', but by GET, HEAD"),
    ("PUT", "/", 405, "GET, HEAD", "not asked by 'PUT'"),
    ("OPTIONS", "/health", 405, "GET, HEAD", "not asked by 'OPTIONS'"),
    ("POST", "/openapi.json", 405, "GET, HEAD", "not asked by 'POST'"),
  ],
)
def test_what_is_not_there_is_told_as_other_refusals_are(method, address, status, allow, message, client):
  answer = client.request(method, address)
  assert answer.status_code == status
  assert message in answer.json()["error"]
  assert answer.headers.get("allow") == allow


def test_a_body_that_does_not_come_is_not_waited_for(service):
  import asyncio

  from mlrec.serving.limits import Limits

  async def never(*asgi):
    raise AssertionError("nobody should see this")

  async def receive():
    await asyncio.sleep(30)

  sent = []

  async def send(message):
    sent.append(message)

  limits = Limits(never, body_bytes=10, body_s=0.01)
  asyncio.run(limits({"type": "http", "headers": []}, receive, send))
  assert sent[0]["status"] == 408


def test_before_its_programs_are_compiled_a_service_says_that_it_starts(service):
  compiled = threading.Event()

  class Slow(Service):
    def warm(self, ending):
      return compiled.wait(60)

  slow = Slow(service.recommender, service.catalogue)
  with TestClient(app.create(slow)) as client:
    health, question = client.get("/health"), client.get("/recommend?user=1")
    assert (health.status_code, health.json()["status"]) == (503, "starting")
    assert question.status_code == 503
    assert question.headers["retry-after"] == "1"
    compiled.set()
    _until_ready(client)
    found = client.get("/health").json()
    assert found.pop("version")
    assert found == {
      "status": "ready", "run": "run", "model": "sequential", "users": USERS, "items": ITEMS, "waiting": 0,
    }  # fmt: skip


def test_too_many_questions_and_too_slow_answers_are_told_to_come_again(service):
  may_go_on = threading.Event()

  class Slow(Service):
    def warm(self, ending):
      return True

    def answer(self, questions):
      may_go_on.wait(60)
      return super().answer(questions)

  slow = Slow(service.recommender, service.catalogue)
  with (
    TestClient(app.create(slow, queued=1, answer_s=0.3)) as client,
    concurrent.futures.ThreadPoolExecutor(8) as threads,
  ):
    _until_ready(client)
    answers = [*threads.map(lambda _: client.get("/recommend?user=1"), range(8))]
    assert {answer.status_code for answer in answers} == {503}
    assert {answer.headers["retry-after"] for answer in answers} == {"1"}
    told = {answer.json()["error"] for answer in answers}
    assert told == {"1 questions wait already", "the answer took too long"}
    may_go_on.set()
  with TestClient(app.create(slow, queued=1)) as client:
    _until_ready(client)
    assert client.get("/recommend?user=1").status_code == 200


def test_a_model_that_cannot_answer_is_told_to_whoever_serves(service):
  failures, told = [], threading.Event()

  class Broken(Service):
    def warm(self, ending):
      raise ScoresNotFinite("scores are not finite")

  def fail(error):
    failures.append(error)
    told.set()

  with TestClient(app.create(Broken(service.recommender, service.catalogue), on_failure=fail)) as client:
    assert told.wait(30)
    assert client.get("/health").status_code == 503
  assert [str(error) for error in failures] == ["scores are not finite"]


def test_an_unforeseen_error_is_no_traceback_to_the_client(service):
  class Broken(Service):
    def warm(self, ending):
      return True

    def answer(self, questions):
      raise RuntimeError("secret")

  with TestClient(app.create(Broken(service.recommender, service.catalogue)), raise_server_exceptions=False) as client:
    _until_ready(client)
    answer = client.get("/recommend?user=1")
  assert (answer.status_code, answer.json()) == (500, {"error": "the service failed; its log says why"})


def test_items_are_told_with_where_their_pictures_and_clips_are(client):
  assert client.get("/items/2").json() | {"watched": 0} == {
    "id": 2, "title": "<b>Clip</b> 2", "picture": "/pictures/2", "media": None, "moves": True, "watched": 0,
    "frames": [f"/frames/{place}/2" for place in range(5)],
  }  # fmt: skip
  assert client.get("/items/9").json()["title"] == ""
  assert client.get("/items/5").json()["media"] == "/media/5"
  assert client.get("/items/1000").status_code == 404
  for address, content in (
    ("/pictures/1", b"cover 1"), ("/pictures/2", b"cover 2"), ("/pictures/3", b"\x02"), ("/frames/4/3", b"\x04"),
  ):  # fmt: skip
    answer = client.get(address)
    assert (answer.content, answer.headers["content-type"]) == (_JPEG + content, "image/jpeg")
  for address in ("/pictures/5", "/pictures/4", "/frames/5/3", "/frames/0/1", "/media/1", "/pictures/x", "/frames/0/0"):
    assert client.get(address).status_code == 404, address
  assert client.get("/frames/-1/3").status_code == 422


def test_videos_are_given_by_ranges(client):
  whole = client.get("/media/5")
  assert (whole.content, whole.headers["content-type"]) == (bytes(range(200)), "video/mp4")
  part = client.get("/media/5", headers={"range": "bytes=10-19"})
  assert (part.status_code, part.content) == (206, bytes(range(10, 20)))
  assert part.headers["content-range"] == "bytes 10-19/200"
  assert client.get("/media/5", headers={"range": "bytes=500-"}).status_code == 416
  assert client.get("/media/6").content == b"mp4", "the form that more browsers play, and the first by name"
  assert client.get("/media/7").status_code == 404, "hidden"
  for address in ("/media/..%2F5", "/media/notes", "/media/%2Fetc%2Fpasswd"):
    assert client.get(address).status_code == 404


def test_videos_are_found_at_any_depth_by_names_in_either_form_of_accents(tmp_path):
  (tmp_path / "0.mp4").mkdir()
  for name in ("1/x.mp4", "2/x.mp4", "0.mp4/z.mp4", "x.webm", "2/cafe\u0301.mp4", "2/y.avi"):
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(b"")
  media = Media.of(tmp_path)
  assert media.find("x") == (tmp_path / "1" / "x.mp4", "video/mp4")
  assert media.find("caf\u00e9") == media.find("cafe\u0301") == (tmp_path / "2" / "cafe\u0301.mp4", "video/mp4")
  assert media.count(["x", "y", "z", 0, "caf\u00e9"]) == 3


def test_a_folder_without_videos_of_items_is_told(tmp_path):
  for folder, message in ((tmp_path, "no file in it is a video, .mp4, "), (tmp_path / "x", "no such folder")):
    with pytest.raises(DataError, match=message):
      Media.of(folder)
  (tmp_path / "clip 1.mp4").write_bytes(b"")
  with pytest.raises(DataError, match=r"it holds 1 video file, such as 'clip 1\.mp4', and none is named by .* 1, 2"):
    Media.of(tmp_path).count([1, 2])


def test_the_catalogue_is_listed_by_parts_most_watched_first_and_by_words(client, recommender):
  listed, first = [], 0
  while first is not None:
    part = client.get("/items", params={"k": 30, "first": first}).json()
    listed += [item["id"] for item in part["items"]]
    first = part["next"]
  assert sorted(listed) == recommender.item_ids
  counts = np.bincount(recommender.loaded.split.rows.values, minlength=ITEMS + 1)
  assert (np.diff(counts[listed]) <= 0).all()
  found = client.get("/items", params={"text": "CLIP</b> 1", "k": 100}).json()
  assert sorted(item["id"] for item in found["items"]) == [1, *range(10, 20), 100]
  assert client.get("/items", params={"text": "nothing"}).json() == {"items": [], "next": None}
  assert client.get("/items?first=1000").json() == {"items": [], "next": None}


def test_pages_ask_for_nothing_elsewhere_and_run_nothing_but_their_own(client):
  for address in ("/", "/docs"):
    page = client.get(address)
    assert page.status_code == 200
    assert "http" not in page.text
    assert "innerHTML" not in page.text
    policy = page.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy


def test_the_description_names_all_that_is_answered(client):
  found = client.get("/openapi.json").json()
  assert set(found["paths"]) == {
    "/recommend", "/similar", "/items", "/items/{item}", "/pictures/{item}", "/frames/{place}/{item}", "/media/{item}",
    "/health",
  }  # fmt: skip
  assert set(found["paths"]["/recommend"]) == {"get", "post"}
  assert {"200", "404", "413", "422", "503"} <= set(found["paths"]["/recommend"]["post"]["responses"])


def test_ids_that_are_texts_are_asked_for_and_told_whatever_is_in_them(recommender, client):
  from mlrec.data.names import Names
  from mlrec.inference.original_ids import OriginalIds

  texts = ["a/b?c=d&e#f", "50% 🎬", "<script>", "\ud800", *(f"clip {n}" for n in range(5, ITEMS + 1))]
  named = mlrec.Recommender(recommender.loaded)
  named.items = OriginalIds("item", named.items.values, Names.of(named.items.values[1:], texts))
  pictures = _pictures({item: [_JPEG] for item in range(1, 5)})
  with TestClient(app.create(Service(named, Catalogue(covers=pictures)))) as texted:
    _until_ready(texted)
    for text, number in zip(texts[:3], range(1, 4)):
      question = json.dumps({"history": [text], "k": 5}).encode()
      answer = texted.post("/recommend", content=question, headers={"content-type": "application/json"})
      expected = client.post("/recommend", json={"history": [number], "k": 5})
      assert _ids(answer) == [texts[one - 1] for one in _ids(expected)]
    assert "\ud800" in [item["id"] for item in texted.get("/items?k=100").json()["items"]], "what UTF-8 does not hold"
    for text in texts[:3]:
      (item,) = texted.get("/items", params={"text": text}).json()["items"]
      assert texted.get(item["picture"]).content == _JPEG
    assert texted.get("/items/clp 50").json()["nearest"][0] == "clip 50"
