"""Protocols of evaluation, one a file: what of a log training sees, and what is to be predicted.

`config.data.split` names one, and what it needs to know after a colon: `time:0.8,0.1`.
"""

from mlrec.data.protocols.protocol import NAME_ENDS
from mlrec.data.protocols.protocol import Protocol
from mlrec.registry import closest
from mlrec.registry import OptionError
from mlrec.registry import Registry

protocols = Registry("split", ["mlrec.data.protocols"])


def stated(text: str, users: int) -> str:
  """How a protocol is told in tables: with the number of users, where it is evaluated on a sample (0 if not)."""
  return f"{text}, sample of {users:,} users" if users else text


def parse(text: str) -> Protocol:
  """The protocol that `config.data.split = text` asks for.

  Raises:
    OptionError: there is none of that name, or it cannot be told so.
  """
  name, _, _ = text.partition(NAME_ENDS)
  if name not in protocols.names():
    raise OptionError("split", f"= {text!r}: {closest(name, protocols.names())}")
  return protocols.get(name)(text)
