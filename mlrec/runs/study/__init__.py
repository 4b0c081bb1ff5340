"""Studies: runs of one experiment that differ in a few keys, and their figures in the layout of a paper."""

from mlrec.runs.study.definition import BARS
from mlrec.runs.study.definition import BUCKETS
from mlrec.runs.study.definition import LINES
from mlrec.runs.study.definition import PublishedPoint
from mlrec.runs.study.definition import SCATTER
from mlrec.runs.study.definition import shipped
from mlrec.runs.study.definition import Study
from mlrec.runs.study.definition import StudyRun

__all__ = ["BARS", "BUCKETS", "LINES", "SCATTER", "PublishedPoint", "Study", "StudyRun", "shipped"]
