"""VideoPrism's parameters as Google publishes them, by its own names and axes: two heads everywhere."""

import re

import numpy as np


def _by_heads(weight):
  """A weight to two heads, `[2 * head, dim]`, as `[dim, 2, head]`."""
  return weight.reshape(2, -1, weight.shape[1]).transpose(2, 0, 1)


# Of a block in Google's file, how it comes out of PyTorch's form.
_BLOCK = {
  "layer_norm/scale": ("layernorm_before.weight", np.array),
  "layer_norm/bias": ("layernorm_before.bias", np.array),
  "ff_layer/layer_norm/scale": ("layernorm_after.weight", np.array),
  "ff_layer/layer_norm/bias": ("layernorm_after.bias", np.array),
  "ff_layer/ffn_layer1/linear/kernel": ("mlp.fc1.weight", np.transpose),
  "ff_layer/ffn_layer1/linear/bias": ("mlp.fc1.bias", np.array),
  "ff_layer/ffn_layer2/linear/kernel": ("mlp.fc2.weight", np.transpose),
  "ff_layer/ffn_layer2/linear/bias": ("mlp.fc2.bias", np.array),
  "self_attention/query/w": ("attention.q_proj.weight", _by_heads),
  "self_attention/key/w": ("attention.k_proj.weight", _by_heads),
  "self_attention/value/w": ("attention.v_proj.weight", _by_heads),
  "self_attention/query/b": ("attention.q_proj.bias", lambda bias: bias.reshape(2, -1)),
  "self_attention/key/b": ("attention.k_proj.bias", lambda bias: bias.reshape(2, -1)),
  "self_attention/value/b": ("attention.v_proj.bias", lambda bias: bias.reshape(2, -1)),
  "self_attention/post/w": ("attention.o_proj.weight", lambda weight: weight.reshape(len(weight), 2, -1)),
  "self_attention/post/b": ("attention.o_proj.bias", np.array),
}


def vision(arrays, prefix: str = "params/"):
  """Google's published file, by its own names and axes, of arrays under PyTorch's: two heads."""
  embedded = "spatial_embeddings.patch_embeddings.projection."
  kernel = arrays[f"{embedded}weight"][:, :, 0].transpose(2, 3, 1, 0)
  file = {
    "patch_projection/linear/bias": arrays[f"{embedded}bias"],
    "patch_projection/linear/kernel": kernel.reshape(-1, kernel.shape[-1]),
  }
  for norm, part in (("layernorm1", "spatial"), ("layernorm2", "temporal")):
    file[f"{part}_pos_emb/emb_var"] = arrays[f"{part}_embeddings.position_embeddings"][0]
    file |= {f"{part}_ln/scale": arrays[f"{norm}.weight"], f"{part}_ln/bias": arrays[f"{norm}.bias"]}
    file |= blocks(arrays, f"{part}_layers", f"{part}_encoder/transformers_stack/")
  return {prefix + name: array for name, array in file.items()}


def blocks(arrays, renamed: str, prefix: str):
  """Those of a stack of blocks, which are called `renamed` by PyTorch."""
  depth = len([name for name in arrays if re.fullmatch(rf"{renamed}\.\d+\.mlp\.fc1\.bias", name)])
  return {
    f"{prefix}x_layers/{name}": np.stack([form(arrays[f"{renamed}.{n}.{torch_name}"]) for n in range(depth)])
    for name, (torch_name, form) in _BLOCK.items()
  }


def lvt(arrays):
  """The file of a model for texts, of PyTorch's arrays of the whole one."""
  inner = {re.sub(r"^(video_model\.)?(vision_model\.)?", "", name): array for name, array in arrays.items()}
  file = vision(inner, "params/vision_encoder/")
  file |= blocks(inner, "auxiliary_layers", "params/auxiliary_encoder/transformers_stack/")
  pool = "params/contrastive_vision_pooler/"
  file |= {
    f"{pool}pooling_attention_query": inner["head.pooling_attention_query"][0],
    f"{pool}pooling_attention/per_dim_scale/per_dim_scale": inner["head.per_dim_scale"],
    f"{pool}pooling_attention_layer_norm/scale": inner["head_layernorm.weight"],
    f"{pool}pooling_attention_layer_norm/bias": inner["head_layernorm.bias"],
    f"{pool}pooling_attention/post/w": inner["head.o_proj.weight"].reshape(len(inner["head.o_proj.bias"]), 2, -1),
    f"{pool}pooling_attention/post/b": inner["head.o_proj.bias"],
  }
  for part in ("query", "key", "value"):
    file[f"{pool}pooling_attention/{part}/w"] = _by_heads(inner[f"head.{part[0]}_proj.weight"])
    file[f"{pool}pooling_attention/{part}/b"] = inner[f"head.{part[0]}_proj.bias"].reshape(2, -1)
  text = "params/text_encoder/"
  file |= {
    f"{text}token_emb/emb_var": inner["text_model.embeddings.token_embedding.weight"],
    f"{text}cls_emb": inner["text_model.embeddings.cls_emb"],
    f"{text}unimodal_ln/scale": inner["text_model.layernorm.weight"],
    f"{text}unimodal_ln/bias": inner["text_model.layernorm.bias"],
  }
  return file | blocks(inner, "text_model.layers", f"{text}unimodal_transformer/")
