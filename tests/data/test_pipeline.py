"""Batches made ahead: in order, with their errors, and without anything left behind."""

import functools
import os
import signal
import threading
import time

import numpy as np
import pytest

from mlrec.data import DataError
from mlrec.data import pipeline
from mlrec.data.pipeline import ahead


def _squares(number: int) -> np.ndarray:
  return np.full(3, number**2)


def _failing(number: int, *, at: int) -> int:
  if number == at:
    raise LookupError(f"element {number} cannot be made")
  return number


def _with_process(number: int) -> tuple[int, int]:
  return _failing(number, at=7), os.getpid()


def _same(element):
  return element


def _threads() -> set[threading.Thread]:
  return set(threading.enumerate())


def _assert_no_thread_is_left(before: set[threading.Thread]) -> None:
  patience = time.monotonic() + 20
  while (left := _threads() - before) and time.monotonic() < patience:
    time.sleep(0.01)
  assert not left


@pytest.mark.parametrize(("threads", "buffered"), [(1, 1), (1, 2), (4, 2), (3, 8)])
def test_elements_come_in_order_whatever_the_threads(threads, buffered):
  def slow_at_first(number):
    time.sleep(0.02 if number % 3 == 0 else 0)
    return _squares(number)

  before = _threads()
  found = list(ahead(slow_at_first, 20, _same, threads=threads, buffered=buffered))
  assert [element.tolist() for element in found] == [[number**2] * 3 for number in range(20)]
  _assert_no_thread_is_left(before)


def test_there_may_be_none():
  assert list(ahead(_squares, 0, _same)) == []


def test_what_is_placed_was_made_and_nothing_else_is():
  made, placed = [], []
  elements = ahead(lambda n: made.append(n) or n, 6, lambda n: placed.append(n) or -n, threads=2)
  assert list(elements) == [-n for n in range(6)]
  assert sorted(made) == sorted(placed) == list(range(6))


def test_elements_are_made_ahead_but_not_far():
  made = []
  elements = ahead(lambda n: made.append(n) or n, 1000, _same, threads=1, buffered=2)
  assert next(elements) == 0
  patience = time.monotonic() + 20
  while len(made) < 2 and time.monotonic() < patience:
    time.sleep(0.01)
  assert 2 <= len(made) <= 5
  time.sleep(0.1)
  assert len(made) <= 5
  elements.close()


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("at", [0, 4])
def test_an_error_comes_after_the_elements_before_it(threads, at):
  before = _threads()
  elements = ahead(functools.partial(_failing, at=at), 8, _same, threads=threads)
  assert [next(elements) for _ in range(at)] == list(range(at))
  with pytest.raises(LookupError, match=f"element {at} cannot be made"):
    next(elements)
  _assert_no_thread_is_left(before)


def test_an_error_of_placing_comes_too():
  with pytest.raises(ZeroDivisionError):
    list(ahead(_same, 3, lambda n: 1 // n))


def test_who_stops_early_leaves_no_thread():
  before = _threads()
  elements = ahead(_squares, 1000, _same, threads=4, buffered=8)
  next(elements)
  elements.close()
  _assert_no_thread_is_left(before)


def _is_deaf_to_ctrl_c(number: int) -> bool:
  return signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, [])


def test_workers_leave_ctrl_c_to_their_owner():
  assert list(ahead(_is_deaf_to_ctrl_c, 3, lambda deaf: deaf, workers=1)) == [True] * 3
  assert list(ahead(_is_deaf_to_ctrl_c, 3, lambda deaf: deaf)) == [False] * 3


@pytest.mark.slow
def test_worker_processes_make_the_same_elements_and_hand_on_their_errors():
  elements = ahead(_with_process, 9, lambda element: (*element, os.getpid()), workers=2)
  found = [next(elements) for _ in range(7)]
  assert [number for number, _, _ in found] == list(range(7))
  assert len({made for _, made, _ in found} - {os.getpid()}) == 2
  assert {placed for _, _, placed in found} == {os.getpid()}
  with pytest.raises(Exception, match="element 7 cannot be made"):
    next(elements)


def _ending(number: int, *, at: int, by: int, told: str) -> int:
  """Signals its process at that number, the first time; at every time if nothing is `told`."""
  if number == at and not (told and os.path.exists(told)):
    if told:
      with open(told, "w"):
        pass
    os.kill(os.getpid(), by)
  return number


@pytest.mark.parametrize("by", [signal.SIGKILL, pytest.param(signal.SIGSTOP, marks=pytest.mark.slow)])
def test_workers_that_die_or_hang_are_replaced_and_nothing_is_lost(by, tmp_path, monkeypatch, caplog):
  if by == signal.SIGSTOP:
    monkeypatch.setattr(pipeline, "_STALLED", 8.0)
  make = functools.partial(_ending, at=5, by=by, told=str(tmp_path / "told"))
  assert list(ahead(make, 9, _same, workers=2)) == list(range(9))
  assert "others take the place of all, and make what is still to come" in caplog.text
  assert ("has ended by signal 9" if by == signal.SIGKILL else "data workers have made nothing for") in caplog.text


@pytest.mark.parametrize("at", [pytest.param(0, marks=pytest.mark.slow), pytest.param(1, marks=pytest.mark.slow), 8])
def test_a_worker_that_dies_at_once_or_at_the_end_is_replaced(at, tmp_path, caplog):
  """Before anybody has taken note of it, or while it hands over the last."""
  make = functools.partial(_ending, at=at, by=signal.SIGKILL, told=str(tmp_path / "told"))
  assert list(ahead(make, 9, _same, workers=2)) == list(range(9))
  assert "has ended by signal 9" in caplog.text


@pytest.mark.slow
def test_workers_that_die_each_time_end_the_stream_with_what_to_try():
  made = []
  with pytest.raises(DataError, match=r"ended by signal 9, for the 4th time: give fewer config\.data\.workers than 2"):
    made.extend(ahead(functools.partial(_ending, at=5, by=signal.SIGKILL, told=""), 9, _same, workers=2))
