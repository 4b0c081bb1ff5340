import asyncio
import threading
import time

import pytest

from mlrec.serving.batcher import Batcher
from mlrec.serving.batcher import Busy
from mlrec.serving.batcher import Closed


class Squares:
  """Work that remembers its batches, and waits where it is told to."""

  def __init__(self):
    self.batches, self.may_go_on, self.began = [], threading.Event(), threading.Event()
    self.may_go_on.set()

  def __call__(self, questions):
    self.began.set()
    self.may_go_on.wait(30)
    self.batches.append(list(questions))
    if "all" in questions:
      raise RuntimeError("the whole batch")
    return [ValueError(f"not {one}") if one == "one" else one * one for one in questions]


def _in_a_loop(scenario, **options):
  work = Squares()

  async def whole():
    batcher = Batcher(work, **{"most": 8, "wait_s": 0.05, **options})
    batcher.start()
    try:
      return await scenario(batcher, work)
    finally:
      work.may_go_on.set()
      await batcher.close()

  return asyncio.run(whole()), work


def _ask_each(batcher, questions, **options):
  return asyncio.gather(*(batcher.ask(one, **{"within_s": 30, **options}) for one in questions), return_exceptions=True)


def test_questions_that_come_together_are_answered_by_few_calls_in_their_order():
  async def scenario(batcher, work):
    return await _ask_each(batcher, range(20))

  answers, work = _in_a_loop(scenario)
  assert answers == [n * n for n in range(20)]
  assert work.batches == [[*range(8)], [*range(8, 16)], [*range(16, 20)]]


def test_what_comes_during_a_batch_is_the_next():
  async def scenario(batcher, work):
    work.may_go_on.clear()
    first = asyncio.create_task(batcher.ask(1, within_s=30))
    await asyncio.to_thread(work.began.wait, 30)
    others = _ask_each(batcher, [2, 3])
    await asyncio.sleep(0)
    work.may_go_on.set()
    return [await first, *await others]

  answers, work = _in_a_loop(scenario, wait_s=0)
  assert answers == [1, 4, 9]
  assert work.batches == [[1], [2, 3]]


def test_a_single_question_does_not_wait_for_a_full_batch():
  async def scenario(batcher, work):
    begin = time.monotonic()
    await batcher.ask(3, within_s=30)
    return time.monotonic() - begin

  seconds, _ = _in_a_loop(scenario)
  assert seconds < 10


def test_an_error_is_of_its_question_or_of_all_and_the_next_are_answered():
  async def scenario(batcher, work):
    alone = await _ask_each(batcher, [2, "one", 3])
    together = await _ask_each(batcher, [2, "all"])
    return alone, together, await batcher.ask(5, within_s=30)

  (alone, together, after), _ = _in_a_loop(scenario)
  assert [alone[0], alone[2], after] == [4, 9, 25]
  assert str(alone[1]) == "not one"
  assert [str(error) for error in together] == ["the whole batch"] * 2


def test_beyond_those_that_may_wait_a_question_is_told_so_at_once():
  async def scenario(batcher, work):
    work.may_go_on.clear()
    first = asyncio.create_task(batcher.ask(1, within_s=30))
    await asyncio.to_thread(work.began.wait, 30)
    waiting = _ask_each(batcher, [2, 3, 4])
    await asyncio.sleep(0)
    with pytest.raises(Busy, match="3 questions wait already"):
      await batcher.ask(5, within_s=30)
    work.may_go_on.set()
    return [await first, *await waiting]

  answers, _ = _in_a_loop(scenario, queued=3, wait_s=0)
  assert answers == [1, 4, 9, 16]


def test_who_has_waited_long_enough_is_told_and_the_question_is_dropped():
  async def scenario(batcher, work):
    work.may_go_on.clear()
    first = asyncio.create_task(batcher.ask(1, within_s=30))
    await asyncio.to_thread(work.began.wait, 30)
    with pytest.raises(TimeoutError):
      await batcher.ask(2, within_s=0.01)
    work.may_go_on.set()
    return [await first, await batcher.ask(3, within_s=30)]

  answers, work = _in_a_loop(scenario, wait_s=0)
  assert answers == [1, 9]
  assert work.batches == [[1], [3]]


def test_closing_answers_what_waits_and_takes_no_more():
  async def scenario(batcher, work):
    work.may_go_on.clear()
    asked = _ask_each(batcher, range(12))
    await asyncio.to_thread(work.began.wait, 30)
    closing = asyncio.create_task(batcher.close())
    await asyncio.sleep(0)
    with pytest.raises(Closed):
      await batcher.ask(1, within_s=30)
    work.may_go_on.set()
    await closing
    return await asked

  answers, _ = _in_a_loop(scenario)
  assert answers == [n * n for n in range(12)]
