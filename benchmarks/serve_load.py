"""The web service under load: requests over the loopback, none lost, and how long they take; kept in results/.

  python benchmarks/serve_load.py --workdir WORKDIR

Starts `python -m mlrec.serve` on a free port, asks it by a number of connections at once, each of which asks again once
it is answered, looks at every answer, and ends it by SIGTERM. Client and server share the machine's cores.
"""

import argparse
import asyncio
import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.parse

from compare import RESULTS
import numpy as np

RESULT = "serve_load.json"
_K, _LONGEST = 10, 20
_HEAD = "POST /recommend HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument("--workdir", required=True)
  parser.add_argument("--requests", type=int, default=10_000)
  parser.add_argument("--connections", type=int, nargs="+", default=[1, 16, 64, 256])
  arguments = parser.parse_args()
  rows = []
  with serving(arguments.workdir) as (address, ready_s, facts):
    for connections in arguments.connections:
      rows.append(asyncio.run(load(address, facts["items"], arguments.requests, connections)))
      print(json.dumps(rows[-1]), flush=True)
  record = {"cores": len(os.sched_getaffinity(0)), "load_15_min": os.getloadavg()[2], "ready_s": ready_s} | facts
  RESULTS.mkdir(exist_ok=True)
  (RESULTS / RESULT).write_text(json.dumps(record | {"k": _K, "rows": rows}, indent=2) + "\n")


@contextlib.contextmanager
def serving(workdir: str):
  """Where a service listens, after how many seconds it was ready, and what it says of its run."""
  command = [sys.executable, "-m", "mlrec.serve", f"--workdir={workdir}", "--port=0"]
  begin = time.perf_counter()
  process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
  try:
    url = re.search(r"http://\S+", process.stdout.readline())[0]
    address = urllib.parse.urlsplit(url).hostname, urllib.parse.urlsplit(url).port
    while (found := asyncio.run(get(address, "/health")))["status"] != "ready":
      time.sleep(0.2)
    yield address, round(time.perf_counter() - begin, 1), {key: found[key] for key in ("model", "users", "items")}
  finally:
    process.send_signal(signal.SIGTERM)
    status = process.wait()
  if status:
    raise SystemExit(f"the service ended with status {status}")


async def get(address: tuple[str, int], path: str) -> dict:
  reader, writer = await asyncio.open_connection(*address)
  found = await exchange(reader, writer, f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
  writer.close()
  return json.loads(found[1])


async def exchange(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, request: bytes) -> tuple[int, bytes]:
  """Status and body of the answer."""
  writer.write(request)
  head = await reader.readuntil(b"\r\n\r\n")
  length = int(re.search(rb"content-length: (\d+)", head, re.IGNORECASE)[1])
  return int(head.split(b" ", 2)[1]), await reader.readexactly(length)


async def load(address: tuple[str, int], num_items: int, requests: int, connections: int) -> dict:
  """Asks for items after histories of the catalogue's most watched thousand."""
  listed = [await get(address, f"/items?k=100&first={first}") for first in range(0, min(num_items, 1000), 100)]
  ids = np.array([item["id"] for part in listed for item in part["items"]])
  rng = np.random.default_rng(0)
  histories = [rng.choice(ids, int(rng.integers(1, _LONGEST)), replace=False).tolist() for _ in range(requests)]
  waiting = iter(enumerate(histories))
  seconds, statuses = np.full(requests, np.nan), {}

  async def connection() -> None:
    reader, writer = await asyncio.open_connection(*address)
    for number, history in waiting:
      body = json.dumps({"history": history, "k": _K}).encode()
      head = f"{_HEAD}Content-Length: {len(body)}\r\n\r\n"
      begin = time.perf_counter()
      status, answer = await exchange(reader, writer, head.encode() + body)
      seconds[number] = time.perf_counter() - begin
      statuses[status] = statuses.get(status, 0) + 1
      if status == 200:
        items = [item["id"] for item in json.loads(answer)["items"]]
        assert len(set(items) - set(history)) == _K, (history, items)
    writer.close()

  begin = time.perf_counter()
  await asyncio.gather(*(connection() for _ in range(connections)))
  wall = time.perf_counter() - begin
  assert not np.isnan(seconds).any(), "a request was not answered"
  milliseconds = {f"p{p}_ms": round(float(np.percentile(seconds, p)) * 1e3, 1) for p in (50, 90, 95, 99, 100)}
  return {
    "connections": connections, "requests": requests, "statuses": statuses, "requests_per_s": round(requests / wall),
    **milliseconds,
  }  # fmt: skip


if __name__ == "__main__":
  main()
