"""Micro-batching: questions that arrive together are answered together, in one thread, by one call."""

import asyncio
import collections
from collections.abc import Callable
from collections.abc import Sequence
import concurrent.futures
from typing import Any
from typing import Generic
from typing import TypeVar

Q = TypeVar("Q")
A = TypeVar("A")


class Busy(Exception):
  """As many questions wait already as may: this one is to be asked again later."""


class Closed(Exception):
  """No question is taken any more."""


class Batcher(Generic[Q, A]):
  """Answers questions of one event loop.

  A batch begins once a question waits and the batch before is done; after a quiet moment it waits a little for others.

  Attributes:
    thread: runs the work, one call at a time; other work that must not run beside it may be given to it too.
  """

  def __init__(
    self,
    work: Callable[[Sequence[Q]], Sequence[A | Exception]],
    *,
    most: int,
    wait_s: float = 0.002,
    queued: int = 1024,
  ):
    """To be started (`start`) in the event loop of those who ask.

    Args:
      work: an answer to each question, or the error to raise for it alone; what it raises itself is raised for all.
      most: questions answered by one call.
      wait_s: how long the first question of a batch waits for others, in seconds.
      queued: questions that may wait.
    """
    self._work, self._most, self._wait_s, self._queued = work, most, wait_s, queued
    self._waiting: collections.deque[tuple[Q, asyncio.Future[A]]] = collections.deque()
    self._closed = False
    self.thread = concurrent.futures.ThreadPoolExecutor(1, thread_name_prefix="answers")

  def start(self) -> None:
    self._arrived, self._full = asyncio.Event(), asyncio.Event()
    self._task = asyncio.get_running_loop().create_task(self._run())

  @property
  def waiting(self) -> int:
    """Questions that wait for a batch."""
    return len(self._waiting)

  async def ask(self, question: Q, *, within_s: float) -> A:
    """The answer to a question.

    Raises:
      Busy: too many wait already.
      Closed: the batcher was closed before.
      TimeoutError: there was none within that many seconds; a question that still waits is dropped.
      Exception: whatever the work raised.
    """
    if self._closed:
      raise Closed("the service is about to end")
    if len(self._waiting) >= self._queued:
      raise Busy(f"{len(self._waiting)} questions wait already")
    future: asyncio.Future[A] = asyncio.get_running_loop().create_future()
    self._waiting.append((question, future))
    self._arrived.set()
    if len(self._waiting) >= self._most:
      self._full.set()
    return await asyncio.wait_for(future, within_s)

  async def close(self) -> None:
    """Answers what waits, and ends the thread."""
    self._closed = True
    self._arrived.set()
    self._full.set()
    await self._task
    self.thread.shutdown()

  async def _run(self) -> None:
    while True:
      if not self._waiting:
        if self._closed:
          return
        self._arrived.clear()
        await self._arrived.wait()
        # Nobody waits behind a batch: others that are about to come may share this one.
        await self._filled()
      batch = self._taken()
      if batch:
        await self._answer(batch)

  async def _filled(self) -> None:
    if self._closed or len(self._waiting) >= self._most:
      return
    self._full.clear()
    try:
      await asyncio.wait_for(self._full.wait(), self._wait_s)
    except TimeoutError:
      return

  def _taken(self) -> list[tuple[Q, asyncio.Future[A]]]:
    """The next batch, without questions whose askers have gone."""
    batch: list[tuple[Q, asyncio.Future[A]]] = []
    while self._waiting and len(batch) < self._most:
      question, future = self._waiting.popleft()
      if not future.done():
        batch.append((question, future))
    return batch

  async def _answer(self, batch: list[tuple[Q, asyncio.Future[A]]]) -> None:
    questions = [question for question, _ in batch]
    found: Sequence[Any]
    try:
      found = await asyncio.get_running_loop().run_in_executor(self.thread, self._work, questions)
    except Exception as error:
      found = [error] * len(batch)
    for (_, future), answer in zip(batch, found, strict=True):
      if future.done():
        continue
      if isinstance(answer, Exception):
        future.set_exception(answer)
      else:
        future.set_result(answer)
