"""How whoever asks for an ingest writes what can be asked for: messages are the same, and name it in those words."""

from collections.abc import Callable
from collections.abc import Mapping
import dataclasses
from typing import Any


@dataclasses.dataclass(frozen=True)
class Wording:
  """The words of an entry point.

  Attributes:
    options: by the name of a setting, what is written before its value, such as `--user=`; of those that are on or off,
      all that is written. What an entry point does not take is missing: its messages do not speak of it.
    value: writes a value.
    log: what the log is called; empty for its path.
  """

  options: Mapping[str, str] = dataclasses.field(default_factory=dict)
  value: Callable[[Any], str] = str
  log: str = ""

  def given(self, option: str, value: Any) -> str:
    """A setting as it was given: `--user=uid`, `user='uid'`."""
    return f"{self.name(option)}{self.value(value)}"

  def name(self, option: str) -> str:
    """A setting without a value: `--user=`."""
    return self.options.get(option, f"{option.replace('_', ' ')} ")

  def hint(self, option: str, value: Any, text: str) -> str:
    """`text`, in which `{}` is the setting with that value; empty where the entry point does not take it."""
    return text.format(self.given(option, value)) if option in self.options else ""

  def switch(self, option: str, text: str) -> str:
    """The same of a setting that is on or off."""
    return text.format(self.options[option]) if option in self.options else ""


# Of an entry point that takes nothing: settings by their names, and no advice.
NEUTRAL = Wording()
