"""MLflow (the extra `mlflow`)."""

from collections.abc import Mapping
import time

from mlrec import config as config_lib
from mlrec.train.writers import Run
from mlrec.train.writers import writers

_EXPERIMENT, _FOLDER = "mlrec", "mlrec.workdir"
# Parameters of a run are texts of so many characters.
_MOST = 500


@writers.register("mlflow")
class MLflow:
  """A run of the experiment `mlrec`; one that is resumed in its workdir goes on there.

  MLflow's names have no `@`: `hr@10` is `hr_at_10`.
  """

  def __init__(self, run: Run, tracking_uri: str):
    """Begins or resumes the run of a workdir on a server, or in a folder or database, as MLflow writes their URIs."""
    import mlflow

    self._client, self._entity = mlflow.MlflowClient(tracking_uri), mlflow.entities.Metric
    found = self._client.get_experiment_by_name(_EXPERIMENT)
    experiment = found.experiment_id if found else self._client.create_experiment(_EXPERIMENT)
    folder = str(run.folder.resolve())
    quoted = folder.replace("'", "''")
    runs = self._client.search_runs([experiment], f"tags.`{_FOLDER}` = '{quoted}'", max_results=1)
    if runs:
      self._id = runs[0].info.run_id
      return
    made = self._client.create_run(experiment, tags={_FOLDER: folder}, run_name=run.folder.name)
    self._id = made.info.run_id
    for key, value in config_lib.flatten(run.config):
      self._client.log_param(self._id, key, str(value)[:_MOST])

  def write(self, step: int, split: str, metrics: Mapping[str, float]) -> None:
    now = time.time_ns() // 1_000_000
    self._client.log_batch(
      self._id,
      [self._entity(f"{split}/{name.replace('@', '_at_')}", value, now, step) for name, value in metrics.items()],
    )

  def close(self) -> None:
    self._client.set_terminated(self._id)
