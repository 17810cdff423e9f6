"""Which weights of a network are matrices between others, from whatever project it is.

They are told by the type of their layer: weights of linear maps, of convolutions (but for those in
groups, which are many small matrices, and transposed ones) and of `nn.MultiheadAttention`. Left out
are

- the first and the last of these layers, in the order in which the network registers them (which is
  that of its forward in diffusers, timm and `nn.Sequential`), and whatever its name says is one of
  them: `conv_in`, `conv_out`, `linear_in`, `linear_out` at the top;
- what embeds noise level, label or position, and what is made of that: whatever is in a module with
  a word in its name that begins with `emb`, `norm` or `modulation` (`time_embedding`, `pos_embed`,
  `time_emb_proj`, `norm1.linear`, `adaLN_modulation`).

Biases, norms, tables (`nn.Embedding`, position tables) and parameters in modules of other types are
none. So a network whose linear maps are modules of its own, with no layer of torch's inside, has no
matrices here.
"""

import re

from torch import nn

_ENDS = ("conv_in", "conv_out", "linear_in", "linear_out")
_EMBEDS = re.compile(r"(^|_)(emb|norm|modulation)")
_ATTENTION = ("in_proj_weight", "q_proj_weight", "k_proj_weight", "v_proj_weight")


def inner_matrices(network: nn.Module) -> list[nn.Parameter]:
    """The weights of layers that stand between others, as matrices of outputs by inputs."""
    found = {
        name: parameter
        for prefix, module in network.named_modules()
        for name, parameter in _matrices(module, prefix).items()
    }
    layers = [name.rpartition(".")[0] for name in found]
    ends = {*layers[:1], *layers[-1:]}
    return [
        parameter
        for layer, parameter in zip(layers, found.values(), strict=True)
        if layer not in ends and not _is_end_or_embeds(layer.split("."))
    ]


def _matrices(module: nn.Module, prefix: str) -> dict[str, nn.Parameter]:
    """The matrices of one module, by name."""
    is_convolution = isinstance(module, nn.Conv1d | nn.Conv2d | nn.Conv3d) and module.groups == 1
    names: tuple[str, ...] = ()
    if isinstance(module, nn.Linear) or is_convolution:
        names = ("weight",)
    elif isinstance(module, nn.MultiheadAttention):
        names = _ATTENTION
    own = dict(module.named_parameters(recurse=False))
    return {f"{prefix}.{name}": own[name] for name in names if name in own}


def _is_end_or_embeds(parts: list[str]) -> bool:
    return parts[0] in _ENDS or any(_EMBEDS.search(part) for part in parts)
