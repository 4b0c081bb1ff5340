"""The documentation is built without a warning, and reads nothing from the network."""

import os
import re
import subprocess
import sys

import pytest

from support.tiny_runs import ROOT

pytestmark = pytest.mark.slow
# What a page loads by itself; links that a reader follows may lead anywhere.
_LOADED = re.compile(r"""<(?:script|link|img|iframe|source)\b[^>]*(?:src|href)=["'](?:https?:)?//[^>]*>""")


@pytest.fixture(scope="module")
def site(tmp_path_factory):
  pytest.importorskip("material", reason="mlrec[docs] is not installed")
  pytest.importorskip("mkdocstrings", reason="mlrec[docs] is not installed")
  folder = tmp_path_factory.mktemp("docs") / "site"
  environment = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
  done = subprocess.run(
    [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)],
    cwd=ROOT, env=environment, capture_output=True, text=True,
  )  # fmt: skip
  assert done.returncode == 0, done.stderr[-3000:]
  return folder


def test_pages_hold_what_is_made_of_the_source(site):
  assert "config.optimizer.warmup_steps" in (site / "reference" / "config.html").read_text(encoding="utf-8")
  assert "--[no]evaluate_only" in (site / "reference" / "commands.html").read_text(encoding="utf-8")
  assert "slowfast_r50" in (site / "reference" / "models.html").read_text(encoding="utf-8")
  assert "mlrec.losses.in_batch_softmax" in (site / "reference" / "api.html").read_text(encoding="utf-8")
  assert "<svg" in (site / "concepts.html").read_text(encoding="utf-8").partition("How data flows")[2]
  assert all("<!-- make:" not in path.read_text(encoding="utf-8") for path in site.rglob("*.html"))


def test_pages_load_nothing_from_the_network(site):
  pages = sorted(site.rglob("*.html"))
  assert len(pages) > 20
  loaded = {match[0] for path in pages for match in _LOADED.finditer(path.read_text(encoding="utf-8"))}
  assert loaded == set()
