"""Local scheduler configurations for scripts that would download a configuration.

A configuration is read from the folder that the script's arguments name, or from the local cache of
the Hub. If neither exists, the published configuration of the script's model family is used.
"""

import ast
import json
from pathlib import Path
from typing import Any

_LATENT = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
_COGVIDEOX = {"rescale_betas_zero_snr": True, "snr_shift_scale": 3.0}
_BY_SIZE = {"use_dynamic_shifting": True}  # shift by image size, in sampling only
_FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "FluxTransformer2DModel": ("FLUX.1-dev", {"shift": 3.0} | _BY_SIZE),
    "Flux2Transformer2DModel": ("FLUX.2-dev", {"shift": 3.0} | _BY_SIZE),
    "SD3Transformer2DModel": ("Stable Diffusion 3", {"shift": 3.0}),
    "HiDreamImageTransformer2DModel": ("HiDream-I1", {"shift": 3.0}),
    "Lumina2Transformer2DModel": ("Lumina-Image 2.0", {"shift": 6.0}),
    "QwenImageTransformer2DModel": ("Qwen-Image", {"shift": 1.0, "max_shift": 0.9} | _BY_SIZE),
    "ZImageTransformer2DModel": ("Z-Image-Turbo", {"shift": 3.0}),
    "CogView4Transformer2DModel": (
        "CogView4",
        {"shift": 1.0, "base_shift": 0.25, "max_shift": 0.75, "time_shift_type": "linear"}
        | _BY_SIZE,
    ),
    "SanaTransformer2DModel": ("Sana, whose flow_shift is not read", {}),
    "CogVideoXTransformer3DModel": (
        "CogVideoX 2B",
        _LATENT | _COGVIDEOX | {"prediction_type": "v_prediction", "timestep_spacing": "trailing"},
    ),
    "VQModel": ("Kandinsky 2.2", _LATENT | {"beta_schedule": "linear"}),
    "UNet2DConditionModel": ("Stable Diffusion", _LATENT),
}
"""Model families by the network class that a script uses: the name of the family, and its
differences from the default scheduler configuration. The first class in use decides; an import
alone does not count."""


class MissingError(ValueError):
    """Error for a missing package or configuration of a script."""

    def __init__(self, text: str, line: int | None = None) -> None:
        super().__init__(text)
        self.line = line


def with_local_configuration(scheduler: Any, tree: ast.Module, assumed: list[str]) -> Any:
    """Return a diffusers scheduler class that downloads nothing.

    It is a subclass of `scheduler` with another `from_pretrained`. Names of assumed configurations
    are appended to `assumed`.
    """
    names = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}

    def from_pretrained(cls: Any, /, name: Any = None, subfolder: Any = None, **kwargs: Any) -> Any:
        given = {key: value for key, value in kwargs.items() if key not in _OF_THE_HUB}
        config = _local(str(name), subfolder) if isinstance(name, str | Path) else None
        if config:
            return cls.from_config(config, **given)
        network = next((one for one in _FAMILIES if one in names), None)
        if network is None:
            raise MissingError(
                f"the configuration of {cls.__name__} is not here: name a folder with it in the "
                'script\'s own argument, as in "train.py --pretrained_model_name_or_path FOLDER".'
            )
        family, config = _FAMILIES[network]
        settings = ", ".join(f"{key}={value!r}" for key, value in config.items())
        assumed.append(f"{cls.__name__}({settings}), as of {family}")
        return cls.from_config(dict(config), **given)

    contents = {"from_pretrained": classmethod(from_pretrained), "__module__": scheduler.__module__}
    return type(scheduler.__name__, (scheduler,), contents)


_OF_THE_HUB = {"revision", "variant", "cache_dir", "token", "use_auth_token", "local_files_only"}


def _local(name: str, subfolder: Any) -> dict[str, Any] | None:
    file = "scheduler_config.json"
    if isinstance(subfolder, str):
        file = f"{subfolder}/{file}"
    path: Any = Path(name, file)
    if not path.is_file():
        try:
            from huggingface_hub import try_to_load_from_cache

            path = try_to_load_from_cache(name, file)
        except (ImportError, ValueError):
            return None
    if not isinstance(path, str | Path):
        return None
    content: dict[str, Any] = json.loads(Path(path).read_text())
    return content
