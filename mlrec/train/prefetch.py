"""Work done a little ahead by another thread."""

from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Iterator
import concurrent.futures
from typing import TypeVar

_T = TypeVar("_T")
_R = TypeVar("_R")


def ahead(make: Callable[[_T], _R], arguments: Iterable[_T], *, depth: int = 2) -> Iterator[_R]:
  """`map(make, arguments)`, in order, `depth` results being made or waiting while one is used."""
  with concurrent.futures.ThreadPoolExecutor(1, thread_name_prefix="ahead") as pool:
    waiting: list[concurrent.futures.Future[_R]] = []
    for argument in arguments:
      waiting.append(pool.submit(make, argument))
      if len(waiting) > depth:
        yield waiting.pop(0).result()
    while waiting:
      yield waiting.pop(0).result()
