"""What items are made of: frames, covers, sound, titles and ready vectors, each by random access to original ids.

A modality is one file of this package: a `Source` registered under the name of its content, with its reader, its opener
and the config key that names it.
"""

from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from mlrec.content.base import Content
from mlrec.content.base import Need
from mlrec.content.base import Source
from mlrec.registry import Registry

# Classes of `Source` by the name of the content that an encoder's recipe reads.
modalities = Registry("content", ["mlrec.content"])


def open_source(content: str, data: ConfigDict, opening: Mapping[str, Any]) -> Source:
  """Opens the content of that name where the config says it lies.

  Args:
    content: a name of `modalities`.
    data: `config.data`.
    opening: what else the source must know of its reader, such as a tokenizer.

  Raises:
    ConfigError: the config does not say where it is.
    DataError: it cannot be read.
  """
  return modalities.get(content).from_config(data, **opening)


__all__ = ["Content", "Need", "Source", "modalities", "open_source"]
