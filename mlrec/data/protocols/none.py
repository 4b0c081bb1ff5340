"""No split: the model that is put to use trains on all there is."""

from mlrec.data.protocols import protocols
from mlrec.data.protocols.protocol import Log
from mlrec.data.protocols.protocol import Protocol
from mlrec.data.splits import Cuts


@protocols.register("none")
class Everything(Protocol):
  """Training sees everything, and nothing is left to validate or to test on.

  It runs for all of `config.train.epochs`; a run with targets says, as `best_epoch` of its result, how many serve.
  """

  form = "none"
  evaluates = ()

  def cuts(self, log: Log) -> Cuts:
    """All of each row is training's."""
    return Cuts(log.histories.lengths, {})
