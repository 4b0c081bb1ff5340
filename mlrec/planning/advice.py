"""What to change where a plan does not fit or would waste what is rented."""

from ml_collections import ConfigDict

from mlrec.planning import costs
from mlrec.planning.estimate import Estimate
from mlrec.planning.estimate import Plan
from mlrec.planning.program import ITEMS
from mlrec.planning.program import JUDGING
from mlrec.planning.program import RANKING
from mlrec.planning.program import TRAINING

# Shares from which something is worth a word.
_MUCH_SENT, _MUCH_FILLER, _MUCH_PADDED = 0.3, 0.05, 1.5
_GIB = 1 << 30


def advice(config: ConfigDict, plan: Plan) -> list[str]:
  """A sentence for each thing that could be changed."""
  out = []
  if plan.filler > _MUCH_FILLER:
    out.append(
      f"{plan.filler:.0%} of a batch's rows are filler: chips do not divide config.train.batch_size = "
      f"{plan.batch_size}; take a multiple of {plan.topology.chips}"
    )
  for one in plan.estimates:
    out += _of_memory(config, plan, one) + _of_transfers(one)
  return out


def _of_memory(config: ConfigDict, plan: Plan, one: Estimate) -> list[str]:
  if one.fits:
    return []
  out = [
    f"{one.name} needs {one.needed / _GIB:.1f} GiB a device, which has {one.room / _GIB:.1f}: {_change(config, one)}"
  ]
  if one.memory is not None and one.memory.arguments > one.room / 2:
    out.append(
      f"parameters, moments and batch alone take {one.memory.arguments / _GIB:.1f} GiB of each device: what lies whole "
      f"on all does not shrink with more chips; {_cut(config)}"
    )
  for large in one.largest:
    if large.padded_bytes > _MUCH_PADDED * large.bytes and large.padded_bytes > one.room / 50:
      out.append(
        f"{large.array} takes {large.padded_bytes / _GIB:.1f} GiB for its {large.bytes / _GIB:.1f}: a TPU fills the "
        "last axis up to 128; a config.model.dim of a multiple of 128 wastes nothing"
      )
  return out


def _cut(config: ConfigDict) -> str:
  """What lessens what each device holds for good."""
  if config.sharding.rules:
    return "a larger share of the mesh for `model`, a smaller config.model.dim, or chips with more memory, helps"
  return (
    "config.sharding.rules cut tables and encoders over them (docs/scale/sharding.md); a smaller config.model.dim, or "
    "chips with more memory, helps, too"
  )


def _change(config: ConfigDict, one: Estimate) -> str:
  """The keys that lessen the temporaries of a program."""
  if one.name == RANKING:
    return f"lower config.eval.batch_size ({config.eval.batch_size}) or config.eval.chunk ({config.eval.chunk})"
  if one.name == JUDGING:
    return f"lower config.eval.batch_size ({config.eval.batch_size})"
  if one.name == ITEMS:
    return f"lower config.eval.item_batch ({config.eval.item_batch})"
  assert one.name == TRAINING
  item = config.model.to_dict().get("item", {})
  keys = []
  if "accumulate" in item and item.get("mode") != "frozen":
    keys += [f"set config.model.item.remat ({item['remat']})"] * (not item["remat"])
    keys.append(f"raise config.model.item.accumulate ({item['accumulate']})")
  keys.append(f"lower config.train.batch_size ({config.train.batch_size})")
  if config.train.steps_per_dispatch > 1:
    keys.append(f"config.train.steps_per_dispatch ({config.train.steps_per_dispatch})")
  return ", ".join(keys[:-1]) + (" or " if keys[:-1] else "") + keys[-1]


def _article(noun: str) -> str:
  return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"


def _of_transfers(one: Estimate) -> list[str]:
  if one.roofline is None or one.roofline.communication_share < _MUCH_SENT or not one.collectives:
    return []
  first = one.collectives[0]
  why = (
    "gradients or sums of all devices" if first.kind == costs.ALL_REDUCE else "arrays that each device needs whole"
  )  # fmt: skip
  return [
    f"{one.name}: {one.roofline.communication_share:.0%} of the time would go to transfers, most to "
    f"{_article(first.kind)} of {costs.shown_bytes(first.bytes)} ({first.what}, {first.source or 'of the step'}), "
    f"{why}: more users a chip, or fewer chips, use them better"
  ]
