"""A trained workdir in use."""

import csv
import dataclasses
import json
import pathlib
import shutil

from ml_collections import ConfigDict
import numpy as np
import pytest

import mlrec
from mlrec.config import ConfigError
from mlrec.data import kept_split
from mlrec.data import leave_one_out
from mlrec.data import read_pairs
from mlrec.data.names import Names
from mlrec.inference.recommender import Filters
from mlrec.ingest import ingest
from mlrec.runs import experiment
from mlrec.runs.workdir import Workdir
from mlrec.train import loop
from mlrec.train.checkpoint import Checkpoints
from support.tiny_runs import ITEMS
from support.tiny_runs import SASREC
from support.tiny_runs import USERS

_SHORT = {"train.epochs": 1, "model.dim": 8}


@pytest.fixture(scope="module")
def trained(tmp_path_factory, tiny_config):
  """Workdirs by the name of their model, each trained once: `trained("lightgcn")`."""
  folder = tmp_path_factory.mktemp("trained")
  models = {
    "lightgcn": {"name": "lightgcn", "dim": 8, "layers": 2},
    "dssm": {"name": "dssm", "dim": 8},
    "nfm": {"name": "nfm", "dim": 8},
    "bert4rec": {"name": "bert4rec", "dim": 8, "blocks": 1, "heads": 2},
    "item_knn": {"name": "item_knn"},
    "popularity": {"name": "popularity"},
  }

  def of(name: str) -> pathlib.Path:
    workdir = folder / name
    if not workdir.exists():
      options = {"model": models[name]} if name in models else {"user": SASREC}
      experiment.run(tiny_config(**options, **{"train.epochs": 1}), workdir, say=lambda text: None)
    return workdir

  return of


@pytest.fixture(scope="module")
def split(pairs_file):
  return leave_one_out(read_pairs(pairs_file))


def _best_by_scores(scores: np.ndarray, seen: list[np.ndarray], k: int) -> np.ndarray:
  """The definition: all items sorted by score, those of lower ids first among equals, without what was seen."""
  out = []
  for row, watched in zip(scores, seen):
    order = [item for item in np.argsort(-row, kind="stable") if item and item not in watched]
    out.append(order[:k])
  return np.array(out)


@pytest.mark.parametrize("name", ["sasrec", "lightgcn", "dssm", "nfm", "bert4rec", "item_knn", "popularity"])
def test_known_users_get_the_items_of_the_highest_scores_that_they_have_not_watched(name, trained, split):
  recommender = mlrec.Recommender.load(trained(name))
  found = recommender.recommend_users(k=7)
  assert found.dense.shape == (USERS, 7)
  watched = [split.rows[user] for user in range(USERS)]
  assert all(not set(row) & set(seen) for row, seen in zip(found.dense.tolist(), watched))
  assert (np.diff(found.scores, axis=1) <= 0).all()
  alone = recommender.recommend_users([17, 3, 250], k=7)
  assert alone.dense.tolist() == found.dense[[16, 2, 249]].tolist(), "in whatever company"
  if name not in ("lightgcn", "dssm"):
    by_history = recommender.recommend([recommender.history(user) for user in (17, 3, 250)], k=7)
    assert by_history.dense.tolist() == alone.dense.tolist()
    scores = recommender.loaded.scorer.scores(split.rows.take(np.array([16, 2])).last(10))
    assert alone.dense[:2].tolist() == _best_by_scores(scores, [watched[16], watched[2]], 7).tolist()
    np.testing.assert_allclose(np.take_along_axis(scores, alone.dense[:2], 1), alone.scores[:2], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["sasrec", "item_knn"])
def test_what_evaluation_ranks_first_is_what_is_recommended(name, trained, split):
  """The share of held-out targets among ten recommended items is the run's own HR@10."""
  workdir = trained(name)
  recommender = mlrec.Recommender.load(workdir)
  histories = [split.item_ids[split.rows[user][:-1]].tolist() for user in range(USERS)]
  targets = split.item_ids[split.targets("test")]
  hits = [target in items for target, items in zip(targets, recommender.recommend(histories, k=10).items)]
  assert np.mean(hits) == pytest.approx(Workdir(workdir).read_result().metrics["test"]["hr@10"])


def test_users_who_were_not_trained_are_what_their_histories_come_to(trained, split):
  recommender = mlrec.Recommender.load(trained("lightgcn"))
  history = split.rows[40]
  mean = recommender.item_vectors[history[-10:] - 1].mean(0)
  scores = np.concatenate([[0], recommender.item_vectors @ mean])[None]
  found = recommender.recommend([split.item_ids[history].tolist()], k=5)
  assert found.dense.tolist() == _best_by_scores(scores, [history], 5).tolist()


def test_neither_log_nor_content_is_needed_once_the_run_is_finished(tmp_path, make_pairs, tiny_config):
  source = make_pairs(users=60)
  for name in ("ease", "sequential"):
    model = {"model": {"name": "ease"}} if name == "ease" else {}
    settings = {"data.source": str(source), "train.epochs": 1}
    experiment.run(tiny_config(**model, **settings), tmp_path / name, say=lambda text: None)
  before = [mlrec.Recommender.load(tmp_path / name).recommend_users(k=3).items for name in ("ease", "sequential")]
  source.unlink()
  after = [mlrec.Recommender.load(tmp_path / name).recommend_users(k=3).items for name in ("ease", "sequential")]
  assert before == after


def test_filters_say_what_may_be_recommended(trained):
  recommender = mlrec.Recommender.load(trained("sasrec"))
  history = recommender.history(5)
  everything = recommender.recommend([history], k=ITEMS).items[0]
  assert sorted(everything + sorted(set(history))) == list(range(1, ITEMS + 1))
  assert set(recommender.recommend([history], k=ITEMS, filters=Filters(seen=True)).items[0]) >= set(history)
  only = [everything[8], everything[3], history[-1], everything[5]]
  filters = Filters(only=only, exclude=[everything[5]])
  assert recommender.recommend([history], filters=filters).items == [[everything[3], everything[8]]]
  few = recommender.recommend([history], k=3, filters=filters)
  assert few.dense.tolist()[0][2] == 0
  assert few.scores[0, 2] == -np.inf
  with pytest.raises(mlrec.data.DataError, match="the filters leave no item to recommend"):
    recommender.recommend([history], filters=Filters(only=[1], exclude=[1]))
  with pytest.raises(mlrec.data.DataError, match=r"there is no item 1000; some that exist: 98, 99, 100"):
    recommender.recommend([history], filters=Filters(only=[1000]))


@pytest.mark.parametrize(
  ("ask", "message"),
  [
    (lambda r: r.recommend([[3]], k=2.5), "k = 2.5: expected an integer of at least 1"),
    (lambda r: r.recommend([[3]], k=True), "k = True: expected an integer"),
    (lambda r: r.similar([3], k="4"), "k = '4': expected an integer"),
    (lambda r: r.why([3], [4], most=None), "most = None: expected an integer"),
    (lambda r: Filters(only=5), r"expected a list of item ids as only of Filters, such as \[5\], not 5"),
    (lambda r: Filters(exclude="57"), r"expected a list of item ids as exclude of Filters, such as \['57'\], not '57'"),
    (lambda r: Filters(seen="no"), "seen of Filters must be True or False, not 'no'"),
    (lambda r: r.recommend([[3]], filters=[4]), r"filters must be a mlrec\.Filters, .* not \[4\]"),
    (lambda r: r.recommend([3, 4]), "histories must be lists of ids"),
    (lambda r: r.recommend(3), "histories must be lists of ids"),
    (lambda r: r.recommend("34"), "histories must be lists of ids"),
    (lambda r: r.recommend_users("17"), r"expected a list of user ids, such as \['17'\], not '17'"),
    (lambda r: r.recommend_users(17), r"expected a list of user ids, such as \[17\], not 17"),
    (lambda r: r.similar("17"), r"expected a list of item ids, such as \['17'\]"),
    (lambda r: r.encode_items(17), r"expected a list of item ids, such as \[17\]"),
    (lambda r: r.why("17", [4]), r"expected a list of item ids, such as \['17'\]"),
    (lambda r: r.evaluate([[3, 4]]), r"expected interactions, such as those that mlrec\.data\.read_pairs returns"),
  ],
)
def test_arguments_of_a_wrong_kind_are_told_as_what_they_are(ask, message, trained):
  with pytest.raises((ConfigError, mlrec.data.DataError), match=message):
    ask(mlrec.Recommender.load(trained("sasrec")))


def test_ids_may_come_in_whatever_can_be_gone_through_once(trained):
  recommender = mlrec.Recommender.load(trained("sasrec"))
  expected = recommender.recommend([[3, 4]], k=np.int64(3), filters=Filters(exclude=[7, 8]))
  filters = Filters(exclude=(item for item in (7, 8)))
  for histories in ((row for row in [(3, 4)]), np.array([[3, 4]]), [{3: "", 4: ""}]):
    assert recommender.recommend(histories, k=3, filters=filters).items == expected.items


def test_what_is_looked_at_says_what_it_is_in_a_line(trained):
  recommender = mlrec.Recommender.load(trained("sasrec"))
  assert repr(recommender) == f"<Recommender of {trained('sasrec')}: 'sequential', {ITEMS} items, {USERS} users>"
  assert repr(recommender.users) == f"<ids of {USERS} users, integers>"
  found = recommender.recommend_users(k=5)
  item, score = found[0][0]
  assert repr(found).startswith(f"<recommendations, {USERS} rows: {item} ({score:.4g}), ")
  assert repr(found).endswith(f", …; … {USERS - 3} more>")
  assert len(repr(found)) < 300
  assert repr(recommender.recommend([[3]], k=1, filters=Filters(only=[5]))).count("5 (") == 1


def test_what_the_run_does_not_know_is_passed_over_or_told(trained, caplog):
  recommender = mlrec.Recommender.load(trained("sasrec"))
  with caplog.at_level("WARNING"):
    found = recommender.recommend([[7, 4000, "9", "x"], [3]], k=4)
  assert "2 of 5 items of the histories are not known" in caplog.text
  assert found.items == recommender.recommend([[7, 9], [3]], k=4).items
  for history, reason in (([4000], "there is no item 4000"), ([], "it is empty")):
    with pytest.raises(mlrec.data.DataError, match=f"history 2 of 2 has no item that the run knows: {reason}"):
      recommender.recommend([[1], history])
  for user in (0, -3, 311, "x", 2**70):
    with pytest.raises(mlrec.data.DataError, match="there is no user"):
      recommender.recommend_users([user])
  with pytest.raises(ConfigError, match="k = 0: expected an integer of at least 1"):
    recommender.recommend([[1]], k=0)


@pytest.mark.parametrize("name", ["sasrec", "nfm", "item_knn"])
def test_neighbours_of_items_and_reasons_are_of_other_items(name, trained):
  recommender = mlrec.Recommender.load(trained(name))
  near = recommender.similar([5, 80], k=6)
  assert [len(set(items)) for items in near.items] == [6, 6]
  assert 5 not in near.items[0]
  reasons = recommender.why([1, 2, 2, 77777], near.items[0][:3])
  assert [sorted(item for item, _ in reason) for reason in reasons] == [[1, 2]] * 3
  assert all(first[1] >= second[1] for first, second in reasons)
  if name == "sasrec":
    vectors = recommender.encode_items([5, near.items[0][0]])
    cosine = vectors[0] @ vectors[1] / np.prod(np.linalg.norm(vectors, axis=1))
    assert near.scores[0, 0] == pytest.approx(cosine, rel=1e-5)


def test_a_model_without_vectors_says_so(trained):
  with pytest.raises(ConfigError, match="'nfm' has no item vectors"):
    _ = mlrec.Recommender.load(trained("nfm")).item_vectors


def test_ids_that_are_texts_are_asked_for_and_answered_as_texts(trained, tmp_path):
  workdir = Workdir(pathlib.Path(shutil.copytree(trained("sasrec"), tmp_path / "texts")))
  split = kept_split.read(workdir.files.data, workdir.files.ids)
  names = Names.of(split.item_ids[1:], [f"clip {item} 🎬" for item in split.item_ids[1:]])
  users = Names.of(split.users, [f"u{user}" for user in split.users])
  named = dataclasses.replace(split, user_names=users, item_names=names)
  kept_split.write(named, workdir.files.data)
  recommender, plain = mlrec.Recommender.load(workdir.path), mlrec.Recommender.load(trained("sasrec"))
  assert recommender.recommend_users(["u7"], k=2).items == [
    [f"clip {item} 🎬" for item in row] for row in plain.recommend_users([7], k=2).items
  ]
  assert recommender.recommend([["clip 4 🎬"]], k=1).items == [[f"clip {plain.recommend([[4]], k=1).items[0][0]} 🎬"]]
  with pytest.raises(mlrec.data.DataError, match=r"no item 'clip 4'; did you mean 'clip 4 🎬'\?"):
    recommender.encode_items(["clip 4"])
  # Another number is another item, and no slip of the pen.
  for other in ("clip 1000 🎬", "something else"):
    with pytest.raises(mlrec.data.DataError, match=f"no item '{other}'; some that exist: 'clip "):
      recommender.encode_items([other])


@pytest.mark.slow
def test_of_several_seeds_the_one_that_validated_best_is_used(tmp_path, run_tiny, caplog):
  run_tiny(tmp_path / "w", seeds=(0, 1), **{"train.epochs": 1})
  results = [Workdir(tmp_path / "w" / f"seed_{seed}").read_result().metrics["valid"]["hr@10"] for seed in (0, 1)]
  recommender = mlrec.Recommender.load(tmp_path / "w")
  assert recommender.loaded.workdir.path.name == f"seed_{int(np.argmax(results))}"


def test_what_is_no_run_is_told(tmp_path, copied):
  with pytest.raises(ConfigError, match="there is no such folder"):
    mlrec.Recommender.load(tmp_path / "nothing")
  (tmp_path / "empty").mkdir()
  with pytest.raises(ConfigError, match="holds no run"):
    mlrec.Recommender.load(tmp_path / "empty")
  (copied / "data.safetensors").unlink()
  with pytest.raises(ConfigError, match="of an older version, which kept no ids and histories"):
    mlrec.Recommender.load(copied)


def test_data_of_another_run_is_refused(tmp_path, copied, make_pairs, run_tiny):
  run_tiny(tmp_path / "other", **{"data.source": str(make_pairs(users=40)), "train.epochs": 1})
  for name in ("ids.safetensors", "data.safetensors"):
    shutil.copy(tmp_path / "other" / name, copied / name)
  with pytest.raises(ConfigError, match="they are of other users or items"):
    mlrec.Recommender.load(copied)


@pytest.fixture(scope="module")
def titled(tmp_path_factory, tiny_config) -> pathlib.Path:
  """A run over IDs and titles, fused, beside the folder of its titles; item 101 and 102 have a title and no history."""
  folder = tmp_path_factory.mktemp("titled")
  words = ("red", "blue", "cat", "dog", "sleeps")
  (folder / "vocab.txt").write_text("\n".join(("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *words)) + "\n")
  with (folder / "tiny_titles.csv").open("w", newline="") as file:
    writer = csv.writer(file, lineterminator="\r\n")
    writer.writerow(["item", "title"])
    writer.writerows([item, f"{words[item % 2]} {words[2 + item % 3]}"] for item in range(1, ITEMS + 3))
  config = tiny_config(**{"data.content": str(folder / "tiny_titles.csv"), "train.epochs": 1})
  bag = {
    "name": "text",
    "encoder": "bag_of_tokens",
    "mode": "scratch",
    "length": 8,
    "tokenizer": str(folder / "vocab.txt"),
  }
  with config.unlocked():
    config.model.item = ConfigDict({"name": "fused", "towers": {"id": {"name": "id"}, "title": bag}})
  experiment.run(config, folder / "run", say=lambda text: None)
  return folder / "run"


def test_vectors_made_of_content_are_kept_so_that_it_is_read_once(titled, tmp_path):
  workdir = pathlib.Path(shutil.copytree(titled, tmp_path / "run"))
  first = mlrec.Recommender.load(workdir).recommend_users(k=3)
  gone = {"content": str(tmp_path / "gone.csv")}
  again = mlrec.Recommender.load(workdir, places=gone).recommend_users(k=3)
  np.testing.assert_array_equal(first.scores, again.scores)
  kept = workdir / "item_vectors.safetensors"
  whole = kept.read_bytes()
  kept.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
  with pytest.raises(mlrec.data.DataError, match=r"gone\.csv"):
    mlrec.Recommender.load(workdir, places=gone)
  assert mlrec.Recommender.load(workdir).recommend_users(k=3).items == first.items


def test_new_items_are_recommended_by_their_content_alone(titled):
  known, more = mlrec.Recommender.load(titled), mlrec.Recommender.load(titled, new_items=True)
  assert (known.num_items, more.num_items) == (ITEMS, ITEMS + 2)
  np.testing.assert_allclose(more.item_vectors[:ITEMS], known.item_vectors, rtol=1e-5, atol=1e-6)
  # Equal titles, and no ID: equal vectors, other than those of items that training named.
  vectors = more.encode_items([101, 102, 95])
  assert not np.allclose(vectors[0], vectors[1])
  assert not np.allclose(vectors[0], vectors[2])
  assert 101 in more.recommend([[1, 2]], k=ITEMS + 2).items[0]
  assert 101 not in known.recommend([[1, 2]], k=ITEMS + 2).items[0]


@pytest.mark.slow
def test_new_items_of_a_later_log_are_known_by_their_texts(tmp_path, tiny_config):
  (tmp_path / "vocab.txt").write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\nred\nblue\n")
  rows = [(f"u{user}", f"clip {(user + place) % 12} 🎬") for user in range(30) for place in range(6)]
  for day, more in (("one", []), ("two", [("u1", "clip new 🎬"), ("u2", "clip newer")])):
    log, items = tmp_path / f"{day}.csv", tmp_path / f"{day}_items.csv"
    seen = [*rows, *more]
    log.write_text("user,item\n" + "".join(f"{user},{item}\n" for user, item in seen))
    items.write_text("item,title\n" + "".join(f"{item},red blue\n" for item in dict.fromkeys(one for _, one in seen)))
    ingest(log, to=tmp_path / day, items=items)
  config = tiny_config(**{"data.source": str(tmp_path / "one"), "train.epochs": 1})
  bag = {"name": "text", "encoder": "bag_of_tokens", "mode": "scratch", "length": 8}
  bag["tokenizer"] = str(tmp_path / "vocab.txt")
  with config.unlocked():
    config.model.item = ConfigDict({"name": "fused", "towers": {"id": {"name": "id"}, "title": bag}})
  experiment.run(config, tmp_path / "run", say=lambda text: None)
  recommender = mlrec.Recommender.load(tmp_path / "run", places={"content": str(tmp_path / "two")}, new_items=True)
  found = recommender.recommend([["clip 3 🎬"]], k=14).items[0]
  assert set(found) == {item for _, item in rows} - {"clip 3 🎬"} | {"clip new 🎬", "clip newer"}
  assert recommender.encode_items(["clip newer"]).shape == (1, 8)


def test_new_items_do_not_change_how_vectors_are_whitened():
  from mlrec.content.vectors import Vectors
  from mlrec.content.vectors import whitened

  rng = np.random.default_rng(0)
  vectors = rng.normal(size=(30, 4)).astype(np.float32) + 3
  ids = np.arange(30)
  known = whitened(Vectors(vectors[:20], np.array([7]), "v"), ids[:20]).vectors
  more = whitened(Vectors(vectors, np.array([7]), "v"), ids, ids[:20]).vectors
  np.testing.assert_array_equal(more[:20], known)
  assert not np.allclose(more[20:], whitened(Vectors(vectors, np.array([7]), "v"), ids).vectors[20:])


def test_who_reads_nothing_but_ids_has_nothing_to_say_of_new_items(trained):
  with pytest.raises(ConfigError, match="reads no content of an item"):
    mlrec.Recommender.load(trained("sasrec"), new_items=True)
  with pytest.raises(ConfigError, match="is computed from interactions alone"):
    mlrec.Recommender.load(trained("item_knn"), new_items=True)


def test_loading_says_nothing_where_all_is_well(finished, titled, caplog):
  with caplog.at_level("WARNING"):
    mlrec.Recommender.load(finished)
    mlrec.Recommender.load(titled, new_items=True)
  assert caplog.records == []


def test_loading_plans_no_batches_and_reads_the_arrays_once(titled, monkeypatch):
  read = []
  real = Checkpoints.restore_model
  monkeypatch.setattr(Checkpoints, "restore_model", lambda *arguments: read.append(1) or real(*arguments))
  monkeypatch.setattr(loop, "train_batches", None)
  mlrec.Recommender.load(titled, new_items=True)
  assert read == [1]


def test_a_history_that_is_not_in_a_list_of_them_is_told(trained):
  for flat in (["clip 1", "clip 2"], [3, 4]):
    with pytest.raises(mlrec.data.DataError, match="histories must be lists of ids, one for each user"):
      mlrec.Recommender.load(trained("sasrec")).recommend(flat)


def test_a_config_that_is_not_the_one_that_was_trained_is_told(copied):
  said = (copied / "config.json").read_text()
  (copied / "config.json").write_text(said.replace('"heads": 2', '"heads": 1'))
  with pytest.raises(
    ConfigError, match=r"of another config than is given:\n  config\.model\.user\.heads: 2 there, 1 now"
  ):
    mlrec.Recommender.load(copied)


def test_a_config_of_another_version_is_told_by_its_file(copied):
  config = json.loads((copied / "config.json").read_text())
  config["data"]["new_key"] = 1
  (copied / "config.json").write_text(json.dumps(config))
  with pytest.raises(ConfigError, match=r"config\.json: unknown key config\.data\.new_key.* another version of mlrec"):
    mlrec.Recommender.load(copied)


def test_a_config_that_cannot_be_read_is_that_of_the_checkpoints_and_this_is_told(copied, caplog):
  (copied / "config.json").write_text("{bad")
  mlrec.Recommender.load(copied)
  assert "config.json cannot be read" in caplog.text


def test_a_workdir_that_is_not_there_may_be_meant_for_another(copied):
  with pytest.raises(ConfigError, match=r"copid: there is no such folder; did you mean '.*copied'"):
    mlrec.Recommender.load(copied.with_name("copid"))
