r"""A diffusers network, built from its config.json for training in this library.

A wrapper computes the timestep and input scale of the network's scheduler at each log-SNR
(`timesteps`), and the null label, a row of the class embedding. The wrapper has no weights, so that
diffusers opens the stored network.
"""

import inspect
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from elbos.base import files
from elbos.base.checks import MAX_BLOCKS, require_positive
from elbos.base.errors import flat, suggestion
from elbos.base.extras import imported
from elbos.models.networks.timesteps import Levels
from elbos.theory.process import align

_TRANSFORMER = "DiTTransformer2DModel"
CLASS_KEYS = {"UNet2DModel": "num_class_embeds", _TRANSFORMER: "num_embeds_ada_norm"}
"""The trainable networks, unconditional or class-conditional, with the configuration key for the
number of classes. The class embedding of a transformer has an additional row, the null label."""

_MAX_SHOWN = 300  # characters shown of a diffusers error


@dataclass(frozen=True, kw_only=True)
class DiffusersConfig:
    """Configuration of a diffusers network as JSON text.

    Attributes:
        config: The text of the network's config.json, as `save_config` writes it, without line
            breaks. The key `_class_name` names the class; missing channels, size and number of
            classes are filled in from the data.

    Raises:
        ValueError: If the text is not the configuration of a supported network.

    Examples:
        >>> DiffusersConfig(config='{"_class_name": "UNet2DModel", "block_out_channels": [64, 64]}')
        UNet2DModel(block_out_channels=[64, 64])
    """

    config: str

    def __post_init__(self) -> None:
        try:
            entries = json.loads(self.config)
        except ValueError as error:
            raise ValueError(f"a network's config is no JSON ({flat(error)}).") from error
        name = entries.get("_class_name") if isinstance(entries, dict) else None
        if name is None:
            raise ValueError(
                "a network's config names no _class_name, which diffusers writes: add it, as "
                '"_class_name": "UNet2DModel".'
            )
        if str(name) not in CLASS_KEYS:
            raise ValueError(
                f"a network's config is of {name}: {suggestion(str(name), CLASS_KEYS)} Others, as "
                "text-conditioned networks, can be wrapped in a function, network:own."
            )
        settings = {key: value for key, value in entries.items() if not key.startswith("_")}
        text = json.dumps({"_class_name": name, **dict(sorted(settings.items()))})
        object.__setattr__(self, "config", text)

    def __repr__(self) -> str:
        settings = ", ".join(f"{key}={value!r}" for key, value in self.settings.items())
        return f"{self.class_name}({settings})"

    @classmethod
    def from_file(cls, path: str | Path) -> "DiffusersConfig":
        """Read the configuration of a diffusers network from its config.json."""
        try:
            return cls(config=files.read(Path(path)).decode("utf-8-sig"))
        except ValueError as error:  # the encoding's, too
            raise ValueError(f"{path}: {flat(error)}") from error

    @property
    def class_name(self) -> str:
        return str(json.loads(self.config)["_class_name"])

    @property
    def settings(self) -> dict[str, Any]:
        entries = json.loads(self.config)
        return {key: value for key, value in entries.items() if key != "_class_name"}

    def build(
        self, shape: tuple[int, ...], num_classes: int | None, levels: Levels
    ) -> "DiffusersNetwork":
        """Build a network of images, (channels, height, width), with random initial weights.

        Without a number of classes it is unconditional.
        """
        kind = getattr(imported("diffusers"), self.class_name)
        settings = fitted(self.class_name, self.settings, tuple(shape), num_classes)
        options = list(inspect.signature(kind.__init__).parameters)[1:]
        for key in settings:
            if key not in options:
                raise ValueError(f"{self.class_name} has no {key}: {suggestion(key, options)}")
        layers = {key: settings[key] for key in settings if "layers" in key}
        require_positive(MAX_BLOCKS, **{k: v for k, v in layers.items() if isinstance(v, int)})
        try:
            inner = kind(**settings)
        except Exception as error:  # diffusers raises any type
            raise ValueError(
                f"diffusers cannot build {self.class_name} ({type(error).__name__}: "
                f"{flat(error)[:_MAX_SHOWN]}): change its config."
            ) from error
        for module in inner.modules():
            if type(module).__name__ == "LabelEmbedding":
                module.dropout_prob = 0.0  # the training loop drops labels itself
        return DiffusersNetwork(inner, levels, null_label(inner) if num_classes else None)


class DiffusersNetwork(nn.Module):
    r"""Diffusers network with the call signature `(z, logsnr, cond)`.

    Args:
        inner: The diffusers network, $y = \mathrm{inner}(c_\mathrm{in} z, t, \text{label})$.
        levels: The timestep $t$ and input scale $c_\mathrm{in}$ at log-SNR $\lambda$.
        null_label: The null (unconditional) label; None for an unconditional network.
    """

    def __init__(self, inner: Any, levels: Levels, null_label: int | None) -> None:
        super().__init__()
        self.inner, self.levels, self.null_label = inner, levels, null_label

    def forward(
        self,
        z: Float[Tensor, "b c h w"],
        logsnr: Float[Tensor, " b"],
        cond: Int[Tensor, " b"] | None = None,
    ) -> Float[Tensor, "b c h w"]:
        timestep = self.levels.timestep(logsnr.to(torch.promote_types(z.dtype, torch.float32)))
        scaled = z * self.levels.input_scale(align(logsnr, z)).to(z)
        labels = {}
        if self.null_label is not None:
            cond = torch.full(logsnr.shape, -1, device=logsnr.device) if cond is None else cond
            labels["class_labels"] = torch.where(cond < 0, self.null_label, cond)
        elif cond is not None:
            raise ValueError("this network was built without labels: pass cond=None.")
        y: Tensor = self.inner(scaled, timestep=timestep, **labels, return_dict=False)[0]
        return y.to(z.dtype)


def null_label(inner: Any) -> int | None:
    """Return the last row of the class embedding, the null label; None without an embedding."""
    name = type(inner).__name__
    num = inner.config.get(CLASS_KEYS[name])
    if num is None:
        return None
    return int(num) if name == _TRANSFORMER else int(num) - 1


def part_name(network: DiffusersNetwork) -> str:
    """Return the component name of a network in a diffusers pipeline, "transformer" or "unet"."""
    return "transformer" if "Transformer" in type(network.inner).__name__ else "unet"


def fitted(
    name: str, settings: Mapping[str, Any], shape: tuple[int, ...], num_classes: int | None
) -> dict[str, Any]:
    """Fill in a network's settings from the data's shape and classes; refuse contradictions."""
    if len(shape) != 3:
        raise ValueError(f"{name} takes images, (channels, height, width), not data of {shape}.")
    channels, *sides = shape
    is_square = sides[0] == sides[1]
    if name == _TRANSFORMER and not is_square:
        raise ValueError(f"{name} takes square images, not {sides[0]}x{sides[1]}.")
    sizes = (sides[0], sides) if is_square else (sides,)
    of_data: dict[str, tuple[Any, ...]] = {  # admitted values, the default first
        "in_channels": (channels,),
        "out_channels": (channels, None) if name == _TRANSFORMER else (channels,),
        "sample_size": (*sizes, None),
    }
    fitting = of_data | {"class_embed_type": (None,), "time_embedding_type": ("positional",)}
    for key, values in fitting.items():
        if key in settings and settings[key] not in values:
            raise ValueError(
                f"{key} of {name} is {settings[key]!r} in its config, and has to be {values[0]!r} "
                "here: change it, or leave it out."
            )
    chosen = {key: value for key, value in settings.items() if value is not None}
    defaults = {key: values[0] for key, values in of_data.items()}
    key, is_beside = CLASS_KEYS[name], name == _TRANSFORMER  # beside: the null label has its row
    num_labels = settings.get(key)
    if num_classes is None:
        if is_beside:
            raise ValueError(
                f"{name} is class-conditional, and the data have no labels: choose UNet2DModel."
            )
        if num_labels is not None:
            raise ValueError(
                f"{key} of {name} is {num_labels!r}, and the data have no labels: omit it."
            )
        return {**settings, **defaults, **chosen}
    least = num_classes if is_beside else num_classes + 1
    if key in settings and (type(num_labels) is not int or num_labels < least):
        row = "" if is_beside else ", the last one for no label"
        raise ValueError(
            f"{key} of {name} is {num_labels!r} in its config, and the data have {num_classes} "
            f"classes: give {least}{row}, or leave it out, or train with --no-use-labels."
        )
    return {**settings, **defaults, key: least, **chosen}
