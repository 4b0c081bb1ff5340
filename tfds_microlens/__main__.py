"""Prepares one MicroLens data set: `python -m tfds_microlens 50k-sequences`."""

import argparse
import sys

from mlrec import terminal
from mlrec.data.interactions import DataError
from tfds_microlens import item_media
from tfds_microlens import videos
from tfds_microlens.beam import Beam
from tfds_microlens.tfds_microlens_dataset_builder import Builder
from tfds_microlens.tfds_microlens_dataset_builder import prepare

_A = {"record": "a record", "cover": "a cover", "audio": "a sound track"}


def main(argv: list[str] | None = None) -> int:
  """Prepares what the command line names.

  Returns:
    The exit status: 1 for an error that was explained, 2 for bad usage, 130 where it was interrupted.
  """
  parser = argparse.ArgumentParser(prog="python -m tfds_microlens", description=__doc__.partition(":")[0] + ".")
  parser.add_argument("name", nargs="?", metavar="NAME", help="a name out of the list printed without one")
  parser.add_argument("--data_dir", help="where prepared data lies (default: $TFDS_DATA_DIR or ~/tensorflow_datasets)")
  parser.add_argument("--manual_dir", help="files put there by hand (default: DATA_DIR/downloads/manual)")
  parser.add_argument(
    "--beam", metavar="FLAGS", help="makes it by Apache Beam with these flags of Beam's, such as --runner=FlinkRunner"
  )
  args = parser.parse_args(argv)
  if not args.name:
    parser.print_usage()
    for name, config in Builder.builder_configs.items():
      print(f"  {name:<32} {config.description}")
    return 2
  terminal.log_plainly()
  try:
    beam = None if args.beam is None else Beam.of_flags(args.beam)
    builder = prepare(args.name, data_dir=args.data_dir, manual_dir=args.manual_dir, beam=beam)
  except DataError as error:
    print(f"error: {terminal.printable(str(error))}", file=sys.stderr)
    return 1
  except KeyboardInterrupt:
    print("interrupted; the same command resumes it", file=sys.stderr)
    return 130
  print(f"microlens/{builder.builder_config_name} is in {builder.data_dir}")
  for split, info in builder.info.splits.items():
    print(f"  {split:<12} {info.num_examples:,} rows")
  # Not by `get`: TFDS reads the metadata of what was there already only when it is asked for `items`.
  metadata = dict(builder.info.metadata.items())
  reports = {"record": videos.REPORT, **{name: item_media.report(name) for name in item_media.NAMES}}
  for what, report in reports.items():
    without = metadata.get(f"without_{what}", 0)
    if without:
      print(f"  {without:,} without {_A[what]}: {builder.data_path / report}")
  return 0


if __name__ == "__main__":
  sys.exit(main())
