r"""Latents and text embeddings that trainers cached on disk, as datasets of `(x, cond)`.

| trainer | latents of an image | text embeddings |
|---|---|---|
| kohya's sd-scripts | `NAME_0512x0768_sdxl.npz` | `NAME_te_outputs.npz`, `NAME_flux_te.npz`, ... |
| musubi-tuner | `NAME_0512x0768_zi.safetensors` | `NAME_zi_te.safetensors` |
| ai-toolkit | `_latent_cache/NAME_HASH.safetensors` | `_t_e_cache/NAME_HASH.safetensors` |
| any other | `latents` `[n, c, h, w]` in a safetensors file | the network's keywords, `[n, ...]` |

kohya's latents of SD, SDXL and SD3 and musubi's of Z-Image are outputs of the VAE, which are yet to
be shifted and scaled as in training; the others are scaled already. A key of the last format may
have dots for a dict within: `added_cond_kwargs.text_embeds`. Flipped copies are not read, and no
file is unpickled.
"""

import abc
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad

from elbos.base import files
from elbos.base.errors import flat, warn
from elbos.base.extras import needs

with needs("train"):
    from elbos.base import formats

_PIXELS = 8  # per latent and side, of the networks that are given sizes of images


@dataclass(frozen=True, kw_only=True)
class Encoded:
    """Cached latents and text embeddings of one image."""

    latents: Tensor  # [c, h, w] or [c, f, h, w]
    text: Tensor | None = None  # embeddings of the caption's tokens, [l, d]
    pooled: Tensor | None = None  # embedding of the caption, [d]
    mask: Tensor | None = None  # [l], which tokens count; None: all
    size: Tensor | None = None  # original height and width, top and left of the crop, its sides
    cond: Mapping[str, Any] | None = None  # conditions under the network's own keywords


@dataclass(frozen=True)
class Sample:
    """Location of the cached files of one image."""

    name: str  # path of the image without suffix
    latents: Path
    text: Path | None
    key: str | int  # name of the latents in the file, or row of a file of many images
    kind: str = ""  # model of the latents, where the file's name says it


class Format(abc.ABC):
    """Format in which one trainer caches latents and text embeddings."""

    name: ClassVar[str]
    is_scaled: ClassVar[Mapping[str, bool]] = {"": True}
    """By the model: whether latents are shifted and scaled for the diffusion network."""

    @abc.abstractmethod
    def samples(self, folder: Path) -> Iterator[Sample]:
        """Find the images in a folder."""

    @abc.abstractmethod
    def read(self, sample: Sample) -> Encoded:
        """Read latents and text embeddings of one image."""


class Kohya(Format):
    """Cache format of kohya's sd-scripts: SD, SDXL, SD3, Flux and Lumina 2."""

    name = "kohya"
    is_scaled: ClassVar = {"sd": False, "sdxl": False, "sd3": False, "flux": True, "lumina": True}

    def samples(self, folder: Path) -> Iterator[Sample]:
        for path in sorted(folder.rglob("*.npz")):
            if re.fullmatch(r".+_(te_outputs|[a-z0-9]+_te)", path.stem):
                continue
            sized = re.fullmatch(r"(.+)_\d{4,}x\d{4,}_([a-z0-9_]+)", path.stem)
            stem, kind = sized.groups() if sized else (path.stem, "sdxl")  # or SD's
            image = str(path.with_name(stem))
            text = path.with_name(f"{stem}_{'te_outputs' if kind == 'sdxl' else f'{kind}_te'}.npz")
            with reading(path), _npz(path) as arrays:
                keys = [name for name in arrays if re.fullmatch(r"latents(_\d+x\d+)?", name)]
                _require(keys, path, arrays)
            stored_text = text if text.is_file() else None
            yield from (Sample(image, path, stored_text, key, kind) for key in keys)

    def read(self, sample: Sample) -> Encoded:
        resolution = str(sample.key).removeprefix("latents")
        with _npz(sample.latents) as arrays:
            latents = torch.from_numpy(arrays[str(sample.key)])
            width, height = arrays["original_size" + resolution].tolist()
            left, top = arrays["crop_ltrb" + resolution].tolist()[:2]
        size = [height, width, top, left, *(_PIXELS * side for side in latents.shape[-2:])]
        encoded = Encoded(latents=latents, size=torch.tensor(size, dtype=torch.float32))
        if sample.text is None:
            return encoded
        with _npz(sample.text) as arrays:
            texts = {name: torch.from_numpy(np.asarray(array)) for name, array in arrays.items()}
        if any(bool(texts.get(f"apply_{name}_attn_mask", False)) for name in ("t5", "lg")):
            warn(
                f"{sample.text} was trained with masked attention to the text, which the network "
                "of diffusers does not have."
            )
        match texts:
            case {"hidden_state1": first, "hidden_state2": second, "pool2": pooled}:
                return replace(encoded, text=torch.cat([first, second], -1), pooled=pooled)
            case {"lg_out": first, "lg_pooled": pooled, "t5_out": second}:
                first = pad(first, (0, second.shape[-1] - first.shape[-1]))
                return replace(encoded, text=torch.cat([first, second]), pooled=pooled)
            case {"t5_out": text, "l_pooled": pooled}:
                return replace(encoded, text=text, pooled=pooled)
            case {"hidden_state": text, "attention_mask": mask}:
                return replace(encoded, text=text, mask=mask)
        raise ValueError(
            f"{sample.text} holds {', '.join(texts)}: these text embeddings are unknown."
        )


class Musubi(Format):
    """Cache format of musubi-tuner: Flux, FLUX.2, Qwen-Image, Z-Image, Krea 2 and Wan."""

    name = "musubi-tuner"
    is_scaled: ClassVar = {
        **dict.fromkeys(("fk", "f2d", "f2k4b", "f2k9b", "qi", "kr2", "wan"), True),
        "zi": False,
    }
    fields: ClassVar = {
        **dict.fromkeys(("t5_vec", "ctx_vec", "vl_embed", "krea2_vl_embed"), "text"),
        "llm_embed": "text",
        "t5": "text",
        "clip_l_pooler": "pooled",
    }
    num_tokens: ClassVar = {"wan": 512}  # zeros follow the tokens of the caption

    def samples(self, folder: Path) -> Iterator[Sample]:
        for path in sorted(folder.rglob("*.safetensors")):
            parts = re.fullmatch(r"(.+?)(?:_\d{5}-\d{3})?_\d{4,}x\d{4,}_([a-z0-9]+)", path.stem)
            if parts and parts[2] != "te":
                name, kind = parts.groups()
                text = path.with_name(f"{name}_{kind}_te.safetensors")
                stored_text = text if text.is_file() else None
                yield Sample(str(path.with_name(name)), path, stored_text, "latents", kind)

    def read(self, sample: Sample) -> Encoded:
        tensors = _tensors(sample.latents)
        latents = {self._plain(key): tensor for key, tensor in tensors.items()}
        if [*latents] != ["latents"]:
            raise ValueError(
                f"{sample.latents} holds {', '.join(latents)}: only latents without control images "
                "are evaluated."
            )
        fields: dict[str, Any] = {}
        for key, tensor in _tensors(sample.text).items():
            field = self.fields.get(self._plain(key))
            if field is None:
                raise ValueError(f"{sample.text} holds {key}: this embedding is unknown.")
            fields[field] = tensor
        if sample.kind in self.num_tokens and "text" in fields:
            fields["text"] = padded(fields["text"], self.num_tokens[sample.kind])
        return Encoded(latents=latents["latents"], **fields)

    @staticmethod
    def _plain(key: str) -> str:
        key = re.sub(r"_(float|bfloat|int|uint)\d+(_e\dm\d\w*)?$", "", key.removeprefix("varlen_"))
        return re.sub(r"^(latents.*?)(_\d+x\d+(x\d+)?)$", r"\1", key)


class AiToolkit(Format):
    """Cache format of ai-toolkit, in folders beside the images."""

    name = "ai-toolkit"
    _HASH = 23  # characters at the end of a file's name

    def samples(self, folder: Path) -> Iterator[Sample]:
        root = folder.parent if folder.name == "_latent_cache" else folder
        texts: dict[str, list[Path]] = defaultdict(list)
        for path in sorted(root.rglob("_t_e_cache/*.safetensors")):
            texts[self._name(path)].append(path)
        for path in sorted(root.rglob("_latent_cache/*.safetensors")):
            name = self._name(path)
            if len(texts[name]) > 1:
                raise ValueError(
                    f"{texts[name][0].parent} holds {len(texts[name])} captions of "
                    f"{Path(name).name}: leave the file of one."
                )
            yield Sample(name, path, next(iter(texts[name]), None), "latent")

    def read(self, sample: Sample) -> Encoded:
        tensors = _tensors(sample.latents)
        latents = tensors.pop("latent", None)
        if latents is None or not latents.is_floating_point() or "first_frame_latent" in tensors:
            raise ValueError(
                f"{sample.latents} holds {', '.join(tensors)}: only latents of images from text "
                "are evaluated."
            )
        height, width = (_PIXELS * side for side in latents.shape[-2:])
        size = torch.tensor([height, width, 0, 0, height, width], dtype=torch.float32)
        fields: dict[str, Any] = {}
        for key, tensor in _tensors(sample.text).items():
            field = {"text": "text", "pooled": "pooled", "attention": "mask"}.get(key.split("_")[0])
            if field is None or field in fields:
                raise ValueError(f"{sample.text} holds {key}: this embedding is unknown.")
            ndim = 2 if field == "text" else 1
            fields[field] = tensor[0] if tensor.ndim > ndim and len(tensor) == 1 else tensor
        return Encoded(latents=latents, size=size, **fields)

    def _name(self, path: Path) -> str:
        return str(path.parent.parent / path.stem[: -self._HASH])


class Plain(Format):
    """Cache format of safetensors files with `latents`, `[n, ...]`, and the network's keywords."""

    name = "safetensors"

    def samples(self, folder: Path) -> Iterator[Sample]:
        for path in [folder] if folder.is_file() else sorted(folder.rglob("*.safetensors")):
            with reading(path), formats.opened(path) as opened:
                shapes = {key: opened.get_slice(key).get_shape() for key in opened.keys()}  # noqa: SIM118
                _require("latents" in shapes, path, shapes)
                num = shapes["latents"][0]
            for key, shape in shapes.items():
                if shape[:1] != [num]:
                    raise ValueError(
                        f"{key} in {path} has shape {tuple(shape)} for {num} latents: give one for "
                        f"each, [{num}, ...]."
                    )
                if any(other.startswith(f"{key}.") for other in shapes):
                    raise ValueError(f"{path} holds {key} and a part of it, {key}.: rename one.")
            yield from (Sample(f"{path}:{row}", path, None, row) for row in range(num))

    def read(self, sample: Sample) -> Encoded:
        row = int(sample.key)
        cond: dict[str, Any] = {}
        with formats.opened(sample.latents) as opened:
            for key in opened.keys():  # noqa: SIM118
                *parents, last = key.split(".")
                inner: dict[str, Any] = cond
                for parent in parents:
                    inner = inner.setdefault(parent, {})
                inner[last] = opened.get_slice(key)[row]
        return Encoded(latents=cond.pop("latents"), cond=cond)


FORMATS: tuple[Format, ...] = (Kohya(), Musubi(), AiToolkit(), Plain())


def padded(tokens: Tensor, num: int) -> Tensor:
    return torch.cat([tokens, tokens.new_zeros(num - len(tokens), *tokens.shape[1:])])


def _require(condition: object, path: Path, contents: Mapping[str, Any]) -> None:
    if not condition:
        raise ValueError(
            f"{path} holds {', '.join(list(contents)[:5]) or 'nothing'}, but no latents: remove "
            "it, or name the folder of the cache."
        )


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Name a file in every error that the content of the file causes.

    Tensors of unexpected names, shapes and dtypes may fail in any operation.
    """
    try:
        yield
    except OSError:
        raise
    except Exception as error:
        if str(path) in str(error):
            raise
        reason = flat(error) or type(error).__name__
        raise ValueError(f"{path} does not hold what a cache holds: {reason}") from error


@contextmanager
def _npz(path: Path) -> Iterator[Mapping[str, Any]]:
    with files.regular(path).open("rb") as file:
        if file.read(4) != b"PK\x03\x04":
            raise ValueError(f"{path} is not an npz file: cache it again.")
        file.seek(0)
        with np.load(file, allow_pickle=False) as arrays:
            yield arrays


def _tensors(path: Path | None) -> dict[str, Tensor]:
    if path is None:
        return {}
    with formats.opened(path) as opened:
        return {key: opened.get_tensor(key) for key in opened.keys()}  # noqa: SIM118
