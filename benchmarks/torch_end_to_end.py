"""The job of `end_to_end.py` in plain PyTorch, as MicroLens's released code has it; prints one JSON object.

  OTHER_PYTHON benchmarks/torch_end_to_end.py slowfast_r50 --kept FOLDER [--check]

Every slot of each user's row is encoded, repeats and padding too, and is a negative of all other users' places. Batch
and weights are those that `end_to_end.py --keep` left. `--check` compares the loss with the one that is there, instead
of timing steps. Needs what `torch_encoders.py` needs.
"""

import argparse
import json
import os
import pathlib
import resource
import statistics
import time

import numpy as np
import torch
from torch import nn
from torch.nn import functional
from torch_encoders import NETS

_WIDTH, _HEADS, _BLOCKS, _DROPOUT, _EPSILON = 512, 2, 2, 0.1, 1e-6
# What a net gives, where it is not the scores of 400 classes.
_FEATURES = {"videomae_b": 768}
_MASKED = -1e9
_FALSE_NEGATIVE = -1e4


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument("encoder", choices=NETS)
  parser.add_argument("--kept", required=True, type=pathlib.Path)
  parser.add_argument("--steps", type=int, default=3)
  parser.add_argument("--threads", type=int, default=2)
  parser.add_argument("--check", action="store_true")
  arguments = parser.parse_args()
  torch.set_num_threads(arguments.threads)
  torch.manual_seed(0)
  with np.load(arguments.kept / "batch.npz") as kept:
    batch = {name: torch.from_numpy(kept[name]) for name in kept.files}
  slots, real = batch["slots"].long(), batch["real"]
  model = _Model(arguments.encoder, batch["frames"].shape[1], slots.shape[1] - 1)
  with np.load(arguments.kept / "weights.npz") as kept:
    weights = {name: torch.from_numpy(kept[name]) for name in kept.files}
  net = "video_encoder.video_net."
  if arguments.encoder == "videomae_b":
    # Transformers 5.24 has the published file's biases under other names.
    renamed = (
      (net, f"{net}net."),
      ("attention.q_bias", "attention.query.bias"),
      ("attention.v_bias", "attention.value.bias"),
    )
    for old, new in renamed:
      weights = {name.replace(old, new): value for name, value in weights.items()}
  missing, surplus = model.load_state_dict(weights, strict=False)
  missing = [name for name in missing if not name.endswith("num_batches_tracked")]
  if missing or surplus:
    raise SystemExit(f"weights that are missing: {missing[:3]}; that are not used: {surplus[:3]}")
  model.video_encoder.to(memory_format=torch.channels_last_3d)
  # Clips of a data loader are floats, and those of the padding are zeros.
  clips = (batch["frames"].float() / 255 - batch["mean"].float()) / batch["std"].float()
  clips[~real] = 0
  clips = clips.permute(0, 4, 1, 2, 3)[slots.flatten()].contiguous(memory_format=torch.channels_last_3d)
  batch = {"clips": clips, "slots": slots, "log_popularity": batch["log_popularity"], "loss": batch["loss"]}
  record = {"encoder": arguments.encoder, "users": len(slots), "clips_a_step": len(clips), "torch": torch.__version__}
  record |= _checked(model, batch) if arguments.check else _timed(model, batch, arguments.steps)
  record["peak_rss_mib"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
  print(json.dumps({key: round(value, 4) if isinstance(value, float) else value for key, value in record.items()}))


def _checked(model: nn.Module, batch: dict[str, torch.Tensor]) -> dict:
  model.eval()
  with torch.no_grad():
    loss = model(batch).item()
  return {"loss": loss, "kept_loss": batch["loss"].item(), "relative_difference": loss / batch["loss"].item() - 1}


def _timed(model: nn.Module, batch: dict[str, torch.Tensor], steps: int) -> dict:
  model.train()
  optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, weight_decay=0.1)
  times = []
  for _ in range(steps + 1):
    begin = time.perf_counter()
    optimizer.zero_grad()
    model(batch).backward()
    nn.utils.clip_grad_norm_(model.parameters(), 5.0)
    optimizer.step()
    times.append(time.perf_counter() - begin)
  step = statistics.median(times[1:])
  return {"users_per_s": len(batch["slots"]) / step, "step_s": step, "load": os.getloadavg()[0]}


class _Model(nn.Module):
  def __init__(self, encoder: str, frames: int, length: int):
    super().__init__()
    videos = nn.Module()
    videos.video_net = NETS[encoder](frames)
    self.projection = "linear" if encoder in _FEATURES else "video_proj"
    setattr(videos, self.projection, nn.Linear(_FEATURES.get(encoder, 400), _WIDTH))
    self.takes_two = encoder.startswith("slowfast")
    self.video_encoder = videos
    self.user_encoder = nn.Module()
    self.user_encoder.transformer_encoder = _Transformer(length)

  def forward(self, batch):
    clips, slots = batch["clips"], batch["slots"]
    # A net of two pathways takes a list, which it overwrites.
    scores = self.video_encoder.video_net([clips[:, :, ::4], clips] if self.takes_two else clips)
    vectors = functional.gelu(getattr(self.video_encoder, self.projection)(scores))
    users, width = slots.shape
    rows = vectors.view(users, width, -1)
    real = slots[:, :-1] != 0
    states = self.user_encoder.transformer_encoder(rows[:, :-1], real).flatten(0, 1)
    logits = states @ vectors.T - batch["log_popularity"][slots.flatten()]
    labels = torch.arange(users * width).view(users, width)[:, 1:].flatten()
    # Items of the user's own row are no negatives, and padding is none.
    own = (slots[:, :, None] == slots.flatten()).any(1).repeat_interleave(width - 1, 0) | (slots.flatten() == 0)
    logits = logits.masked_fill(own.scatter(1, labels[:, None], False), _FALSE_NEGATIVE)
    keep = real.flatten()
    return functional.cross_entropy(logits[keep], labels[keep])


class _Transformer(nn.Module):
  def __init__(self, length: int):
    super().__init__()
    self.position_embedding = nn.Embedding(length, _WIDTH)
    self.layer_norm, self.dropout = nn.LayerNorm(_WIDTH, _EPSILON), nn.Dropout(_DROPOUT)
    self.transformer_blocks = nn.ModuleList(_Block() for _ in range(_BLOCKS))

  def forward(self, x, real):
    length = x.shape[1]
    causal = torch.ones(length, length, dtype=torch.bool).tril()
    bias = torch.where(real[:, None, None] & causal, 0.0, _MASKED)
    x = self.dropout(self.layer_norm(x + self.position_embedding.weight))
    for block in self.transformer_blocks:
      x = block(x, bias)
    return x


class _Block(nn.Module):
  def __init__(self):
    super().__init__()
    attention = nn.Module()
    attention.w_Q, attention.w_K, attention.w_V, attention.fc = (
      nn.Linear(_WIDTH, _WIDTH, bias=False) for _ in range(4)
    )
    attention.layer_norm = nn.LayerNorm(_WIDTH, _EPSILON)
    feed_forward = nn.Module()
    feed_forward.w_1, feed_forward.w_2 = nn.Linear(_WIDTH, 4 * _WIDTH), nn.Linear(4 * _WIDTH, _WIDTH)
    feed_forward.layer_norm = nn.LayerNorm(_WIDTH, _EPSILON)
    self.multi_head_attention, self.feed_forward, self.dropout = attention, feed_forward, nn.Dropout(_DROPOUT)

  def forward(self, x, bias):
    attention, feed_forward = self.multi_head_attention, self.feed_forward
    users, length, _ = x.shape
    layers = attention.w_Q, attention.w_K, attention.w_V
    query, key, value = (layer(x).view(users, length, _HEADS, -1).transpose(1, 2) for layer in layers)
    shares = self.dropout((query @ key.mT / query.shape[-1] ** 0.5 + bias).softmax(-1))
    mixed = (shares @ value).transpose(1, 2).reshape(x.shape)
    x = attention.layer_norm(x + self.dropout(attention.fc(mixed)))
    inner = feed_forward.w_2(functional.relu(feed_forward.w_1(x)))
    return feed_forward.layer_norm(x + self.dropout(inner))


if __name__ == "__main__":
  main()
