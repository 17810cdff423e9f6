"""Export of a trained model's averaged weights to a folder for diffusers or elbos, with a model
card.

| network | folder | opens with |
|---|---|---|
| of diffusers | `model_index.json`, `unet/` or `transformer/`, `scheduler/` | `from_pretrained` |
| any other | `config.json`, `data.json`, `model.safetensors` | `elbos.Run` |

Both have `README.md`, a model card, and `elbos.json`, which says of which run they are.
"""

from elbos.runs.export.folder import export

__all__ = ["export"]
