"""Threads that work in order."""

import pytest

from mlrec import machine


def test_jobs_come_back_in_order_and_an_error_stops_them():
  started = []

  def work(job):
    started.append(job)
    if job == 50:
      raise KeyError(job)
    return -job

  assert list(machine.in_order(abs, range(-30, 0), workers=3)) == list(range(30, 0, -1))
  with pytest.raises(KeyError):
    list(machine.in_order(work, range(10_000), workers=2))
  assert len(started) < 100
