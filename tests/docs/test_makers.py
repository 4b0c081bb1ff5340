"""Pages that are made of the source say all that is there, and refuse what they would have to leave out."""

import ast
import re

from ml_collections import ConfigDict
import pytest

from makers import commands
from makers import config_keys
from makers import models as models_page
from makers import parts
from makers import usual_columns
from mlrec import __main__
from mlrec import config as config_lib
from mlrec.models.registry import models
from support.tiny_runs import ROOT
from tfds_microlens.ingest import columns


def test_every_key_of_a_config_is_told_with_its_default_and_meaning():
  told = {key.name: key for key in config_keys.read()}
  # Sections of options are keys of their own: what is in them depends on their name.
  wanted = {name.removesuffix(".name") if name.count(".") == 2 else name: value
            for name, value in config_lib.flatten(config_lib.default_config())}  # fmt: skip
  assert told.keys() == wanted.keys()
  assert told["optimizer.lr"].default == wanted["optimizer.lr"] == 1e-4
  assert told["train.epochs"].mutable
  assert not told["model.dim"].mutable
  page = config_keys.page()
  assert all(f"`config.{name}`" in page for name in wanted)


def test_a_key_without_a_comment_is_refused(monkeypatch):
  def default_config() -> ConfigDict:
    config = ConfigDict()
    # Told.
    config.told = 1
    config.silent = 2
    return config

  monkeypatch.setattr(config_lib, "default_config", default_config)
  with pytest.raises(ValueError, match=r"config\.silent has no comment"):
    config_keys.read()


def test_every_command_says_how_it_is_called():
  found = __main__.commands()
  assert {"mlrec.main", "mlrec.recommend"} <= set(found)
  for module in found:
    path = (ROOT / module.replace(".", "/")).with_suffix(".py")
    described = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
    assert described, module
    assert f"python -m {module} " in described, f"{module}: no usage in its docstring"


def test_a_command_is_told_with_its_flags_whoever_keeps_them():
  for module, name, default in (("mlrec.recommend", "k", "10"), ("mlrec.convert", "[no]list", "false")):
    flags = {flag.name: flag for flag in commands.read(module).flags}
    assert flags[name].default == default
    assert "help" not in flags


@pytest.mark.slow
def test_every_flag_of_every_command_has_a_help():
  for command in commands.commands():
    assert command.flags, command.module
    for flag in command.flags:
      assert len(flag.meaning.split()) > 2, f"{command.module} --{flag.name}: {flag.meaning!r}"


def test_every_model_is_told_with_its_options():
  for kind in ("recommender", "user encoder", "item tower"):
    page = models_page.page(kind)
    assert [row.split("`")[1] for row in page.splitlines()[2:]] == models.names(kind)
    assert page.count("\n") == len(models.names(kind)) + 1
  assert "`heads=2`" in models_page.page("user encoder")
  assert "num_items" not in models_page.page("recommender")
  with pytest.raises(ValueError, match="there is no kind 'user'"):
    models_page.page("user")


def test_parts_of_files_are_found_by_heading_and_by_mark():
  assert parts.part("CONTRIBUTING.md", "What a change needs").startswith("Tests of its behaviour")
  assert parts.table("README.md", "speed").startswith("| work |")
  with pytest.raises(ValueError, match="no heading 'Nothing'"):
    parts.part("README.md", "Nothing")
  with pytest.raises(ValueError, match="no marks <!-- nothing -->"):
    parts.table("README.md", "nothing")


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md"])
def test_files_that_are_linked_are_there(name):
  links = re.findall(r"\]\(([^)#]+)[^)]*\)", (ROOT / name).read_text(encoding="utf-8"))
  missing = [link for link in links if "://" not in link and not (ROOT / link).exists()]
  assert missing == []


def test_all_usual_names_of_columns_are_told():
  told = usual_columns.table()
  assert all(f"`{name}`" in told for names in columns.USUAL.values() for name in names)
