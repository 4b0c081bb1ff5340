import pytest

from mlrec.command_line import parse_options
from mlrec.config import ConfigError


@pytest.mark.parametrize(
  ("text", "options"),
  [
    ("", {}),
    ("depth=2,dim=96", {"depth": 2, "dim": 96}),
    ("rate=0.5, kind=same", {"rate": 0.5, "kind": "same"}),
    ("depths=(1,2),dim=16,heads=[2, 4]", {"depths": (1, 2), "dim": 16, "heads": (2, 4)}),
    ("patch=(4,)", {"patch": (4,)}),
  ],
)
def test_options_of_the_command_line_are_numbers_words_and_tuples(text, options):
  assert parse_options(text) == options


@pytest.mark.parametrize("text", ["depth", "=2", "dim=16,(1,2)", "1)"])
def test_an_option_without_name_or_value_is_named(text):
  with pytest.raises(ConfigError, match=r"--options: '.*' is no name=value"):
    parse_options(text)
