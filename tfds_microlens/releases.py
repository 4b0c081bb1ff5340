"""The published releases of MicroLens: what each file is called and where it lies (arXiv 2309.15379, section 3)."""

import dataclasses
import os

from tfds_microlens import fetch

_SERVER = "https://recsys.westlake.edu.cn/"
# The root of a mirror of the official server; what comes from it is checked all the same.
_MIRROR_VARIABLE = "MICROLENS_MIRROR"


@dataclasses.dataclass(frozen=True)
class Release:
  """One size of MicroLens.

  Attributes:
    summary: what it is, in a line.
    folder: its folder on the server; empty if there is nothing to download.
    pairs_tsv, pairs_csv, titles, likes: file names; `likes` is empty if the release has no such file.
    videos: name of the folder that holds `<item>.mp4` files.
    covers: name of the folder that holds `<item>.jpg` files, and of an archive of it without its `.zip`.
    audio: name of the folder that holds a sound file an item.
    frames: name of the archive of five frames of each video; empty if there is none.
    quoted_titles: titles with a comma or a quote are quoted, as CSV has it; else a quote is a character as any other
      and a line is cut at its first comma.
    tags, comments: file names; empty if the release has no such file.
  """

  summary: str
  folder: str
  pairs_tsv: str
  pairs_csv: str
  titles: str
  likes: str
  videos: str
  covers: str
  audio: str
  frames: str
  quoted_titles: bool
  tags: str = ""
  comments: str = ""

  def file(self, kind: str) -> fetch.RemoteFile:
    """What is known of the file of a `kind`: `pairs_tsv`, `pairs_csv`, `titles`, `likes`, `tags` or `comments`."""
    name = getattr(self, kind)
    if not self.folder:
      return fetch.RemoteFile(name)
    size, sha256 = fetch.recorded_checksums().get(f"{_SERVER}{self.folder}/{name}", (None, None))
    root = os.environ.get(_MIRROR_VARIABLE, _SERVER).rstrip("/")
    return fetch.RemoteFile(name, f"{root}/{self.folder}/{name}", size, sha256)


RELEASES = {
  "50k": Release(
    summary="50,000 users, 19,220 items, 359,708 interactions",
    folder="MicroLens-50k-Dataset",
    pairs_tsv="MicroLens-50k_pairs.tsv",
    pairs_csv="MicroLens-50k_pairs.csv",
    titles="MicroLens-50k_titles.csv",
    likes="MicroLens-50k_likes_and_views.txt",
    videos="MicroLens-50k_videos",
    covers="MicroLens-50k_covers",
    audio="MicroLens-50k_audio",
    frames="MicroLens-50k_frames_interval_1_number_5.zip",
    quoted_titles=True,
  ),
  "100k": Release(
    summary="100,000 users, 19,738 items, 719,405 interactions",
    folder="MicroLens-100k-Dataset",
    pairs_tsv="MicroLens-100k_pairs.tsv",
    pairs_csv="MicroLens-100k_pairs.csv",
    titles="MicroLens-100k_title_en.csv",
    likes="MicroLens-100k_likes_and_views.txt",
    videos="MicroLens-100k_videos",
    covers="MicroLens-100k_covers",
    audio="MicroLens-100k_audio",
    frames="MicroLens-100k_frames_interval_1_number_5.zip",
    quoted_titles=True,
    tags="tags_to_summary.csv",
    comments="MicroLens-100k_comment_en.txt",
  ),
  "1m": Release(
    summary="1,000,000 users, 91,402 items, 9,095,620 interactions",
    folder="MicroLens-1M-Dataset",
    pairs_tsv="MicroLens-1M_pairs.tsv",
    pairs_csv="MicroLens-1M_pairs.csv",
    titles="MicroLens-1M_title.csv",
    likes="",
    videos="MicroLens-1M_videos",
    covers="MicroLens-1M_covers",
    audio="MicroLens-1M_audio",
    frames="",
    quoted_titles=False,
  ),
  "full": Release(
    summary="34,492,051 users, 1,142,528 items, 1,006,528,709 interactions; by e-mail from the authors only",
    folder="",
    pairs_tsv="MicroLens_pairs.tsv",
    pairs_csv="MicroLens_pairs.csv",
    titles="MicroLens_titles.csv",
    likes="MicroLens_likes_and_views.txt",
    videos="MicroLens_videos",
    covers="MicroLens_covers",
    audio="MicroLens_audio",
    frames="",
    quoted_titles=False,
  ),
}
DEMO = "demo"
# Of logs and media of any origin, which `python -m mlrec.ingest` reads.
OWN = "own"
# As its authors state them.
_TERMS = (
  "For academic use only. Modified versions of the data may not be redistributed: publish code that prepares them "
  "instead. Cite arXiv:2309.15379."
)
_TERMS_OF_DEMO = "Made up by this package and holding nothing of MicroLens: Apache License 2.0, as the package itself."
_TERMS_OF_OWN = "Those of the log and the media that it was made of."


def terms(release: str) -> str:
  """On what terms the data of a release, of the demo, or of a log of one's own may be used."""
  return {DEMO: _TERMS_OF_DEMO, OWN: _TERMS_OF_OWN}.get(release, _TERMS)
