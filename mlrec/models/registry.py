"""The registry of models: a new one is one new file in one of these packages."""

from mlrec.registry import Registry

USER_ENCODER = "user encoder"
ITEM_TOWER = "item tower"
VIDEO_ENCODER = "video encoder"
IMAGE_ENCODER = "image encoder"
AUDIO_ENCODER = "audio encoder"
TEXT_ENCODER = "text encoder"
RECOMMENDER = "recommender"

models = Registry("model", ["mlrec.models.items", "mlrec.models.users", "mlrec.models.recommenders"])
