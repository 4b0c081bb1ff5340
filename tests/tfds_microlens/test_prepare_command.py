"""`python -m tfds_microlens`."""

from tfds_microlens import __main__ as command


def test_it_prepares_and_says_where_and_how_much(tmp_path, capsys):
  assert command.main(["demo-sequences", "--data_dir", str(tmp_path)]) == 0
  out = capsys.readouterr().out
  assert str(tmp_path / "microlens" / "demo-sequences" / "1.0.0") in out
  assert "2,000 rows" in out


def test_without_a_name_it_lists_them(capsys):
  assert command.main([]) == 2
  out = capsys.readouterr().out
  assert "50k-sequences" in out
  assert "demo-items" in out


def test_a_wrong_name_answers_with_the_nearest(capsys):
  assert command.main(["microlens/50k-sequenses"]) == 1
  assert "did you mean 50k-sequences" in capsys.readouterr().err


def test_what_cannot_be_had_is_explained_without_a_traceback(tmp_path, capsys, monkeypatch):
  monkeypatch.setenv("MICROLENS_MIRROR", "http://127.0.0.1:9")
  assert command.main(["50k-sequences", "--data_dir", str(tmp_path), "--manual_dir", str(tmp_path / "by_hand")]) == 1
  err = capsys.readouterr().err
  assert str(tmp_path / "by_hand" / "MicroLens-50k_pairs.tsv") in err
  assert "Traceback" not in err


def test_an_interruption_is_told_in_a_line(tmp_path, capsys, monkeypatch):
  def interrupted(name, **folders):
    raise KeyboardInterrupt

  monkeypatch.setattr(command, "prepare", interrupted)
  assert command.main(["demo-items", "--data_dir", str(tmp_path)]) == 130
  assert capsys.readouterr().err == "interrupted; the same command resumes it\n"
