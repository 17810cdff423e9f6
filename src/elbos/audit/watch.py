r"""Watching a loss from inside: what it gives the network, and what it does with the answer.

The loss is called with a `Probe` in place of the network. The probe notes its input $z$ and answers
with a tensor of our choice; the gradient of the loss with respect to that answer is all that the
loss says about it. Random states are set before each call (`randomness`), so that calls can be
compared that differ in one thing only: in the data, or in the answer.
"""

import enum
import sysconfig
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from elbos.audit.randomness import Randomness

LossFunction = Callable[[Any, Tensor], Any]


class Output(enum.Enum):
    """What a network's answer comes as."""

    TENSOR = "with itself as its attribute `sample`"
    TUPLE = "of which the answer is the only item"
    PAIR = "the answer, and a zero for each sample"


@dataclass(frozen=True)
class Form:
    """What the loss takes for the network's output.

    Args:
        output: What the answer comes as.
        multiple: Channels of the output per channel of the data; 2 where a variance is learned.
    """

    output: Output
    multiple: int


FORMS = [
    Form(Output.TENSOR, 1),
    Form(Output.TUPLE, 1),
    Form(Output.PAIR, 1),
    Form(Output.TENSOR, 2),
    Form(Output.TUPLE, 2),
]


@dataclass
class Call:
    """One call of the network.

    Args:
        z: What it was given as noisy data.
        answer: What it answered, a leaf of the graph.
        gradient: Of the loss, with respect to the answer; None if the loss does not depend on it.
    """

    z: Tensor
    answer: Tensor
    gradient: Tensor | None = None


class Probe(nn.Module):
    """Stands in for the network, whatever it is called with.

    Args:
        x: The clean batch: noisy data are recognized by its shape.
        form: What the loss takes for an output.
        scale: The answers are `scale` times random signs, the same signs in every call; 0 where
            gradients are switched off.
        is_masked: Answer 0 in a random half of the elements instead.
        moved: Calls, by their number, whose answers are the signs whatever `scale` is.
    """

    def __init__(
        self, x: Tensor, form: Form, scale: float, *, is_masked: bool, moved: list[int]
    ) -> None:
        super().__init__()
        self.x, self.form, self.scale, self.is_masked = x, form, scale, is_masked
        self.moved = moved
        self.calls: list[Call] = []
        # `next(network.parameters())` is how losses ask for a device or dtype
        self.unused = nn.Parameter(torch.zeros((), device=x.device, dtype=x.dtype))

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            is_swapped = hasattr(Tensor, name)
            advice = (
                "is it called as loss(network, x), in this order?"
                if is_swapped
                else "set it in the loss to what your network has"
            )
            raise AttributeError(
                f"the stand-in for the network has no attribute {name!r}: {advice}"
            ) from None

    def __deepcopy__(self, memo: dict[int, Any]) -> "Probe":
        """An average of the network's weights is this network, too: its calls are noted here."""
        return self

    @property
    def device(self) -> torch.device:
        return self.x.device

    @property
    def dtype(self) -> torch.dtype:
        return self.x.dtype

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        z = noisy_data([*args, *kwargs.values()], self.x)
        shape = list(self.x.shape if z.shape[2:] == self.x.shape[2:] else z.shape)
        shape[:1] = z.shape[:1]
        shape[1] *= self.form.multiple
        is_moved = len(self.calls) in self.moved
        scale = 1.0 if is_moved else self.scale if torch.is_grad_enabled() else 0.0
        value = scale * signs(shape)
        if self.is_masked:
            value = value * is_kept(shape)
        dtype = z.dtype if z.dtype in (torch.float32, torch.float64) else torch.float32
        leaf = value.to(z.device, dtype).requires_grad_()
        self.calls.append(Call(z.detach().clone(), leaf))
        answer = leaf.view_as(leaf)
        answer.sample = leaf.view_as(leaf)  # type: ignore[attr-defined]
        if self.form.output is Output.PAIR:
            return answer, torch.zeros_like(leaf.flatten(1)[:, 0]).view(-1, *[1] * (z.ndim - 1))
        is_tuple = self.form.output is Output.TUPLE or kwargs.get("return_dict") is False
        return (answer,) if is_tuple else answer


def noisy_data(arguments: list[Any], x: Tensor) -> Tensor:
    """The argument that is the noisy data, itself or inside of lists and dicts.

    The first that is shaped like the data; else of as many numbers; else with other channels
    besides; else the largest.
    """
    tensors = [value for argument in arguments for value in _tensors(argument, x)]
    if not tensors:
        raise ValueError("the network is called without any tensor of floating-point data")

    def resemblance(value: Tensor) -> tuple[bool, bool, bool, int]:
        is_wider = value.ndim > 2 and value.shape[2:] == x.shape[2:]
        return (
            value.shape[1:] == x.shape[1:],
            value.numel() == x.numel(),
            is_wider and value.shape[1] > x.shape[1],
            value.numel(),
        )

    return max(tensors, key=resemblance)


def _tensors(value: Any, x: Tensor) -> Iterator[Tensor]:
    """The tensors in an argument that may be the noisy data; samples in a list as one batch."""
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list | tuple):
        is_batch = len(value) == len(x) and all(
            isinstance(item, Tensor) and item.shape == x.shape[1:] for item in value
        )
        if is_batch:
            yield torch.stack(list(value))
        else:
            for item in value:
                yield from _tensors(item, x)
    elif isinstance(value, Tensor) and value.is_floating_point() and value.ndim > 1:
        yield value


def signs(shape: list[int]) -> Tensor:
    """Random signs, a fixed function of the shape, without touching the global random state."""
    return 2 * _bits(tuple(shape), seed=1) - 1


def is_kept(shape: list[int]) -> Tensor:
    """One in half of the elements, 0 in the others; likewise fixed."""
    return _bits(tuple(shape), seed=2)


@lru_cache(maxsize=8)
def _bits(shape: tuple[int, ...], seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(2, shape, generator=generator).float()


@dataclass
class Watch:
    """Calls a loss and says what happened.

    Args:
        loss_fn: `loss_fn(network, x)`.
        form: What it takes for the network's output.
        untrained: Calls of the network, by their number, that the last loss had no gradient for.
        is_finite: Whether the last loss was a finite number.
    """

    loss_fn: LossFunction
    form: Form
    randomness: Randomness = field(default_factory=Randomness)
    untrained: list[int] = field(default_factory=list)
    is_finite: bool = True

    def __call__(
        self,
        x: Tensor,
        seed: int,
        *,
        scale: float = 0.0,
        is_masked: bool = False,
        moved: list[int] | None = None,
    ) -> list[Call]:
        """The calls that the loss depends on, with their gradients; arguments as a `Probe`'s.

        Raises:
            ValueError: In one line, if the loss fails, calls no network, or returns no loss.
        """
        probe = Probe(x, self.form, scale, is_masked=is_masked, moved=moved or [])
        self.randomness.reset(seed, len(x))
        with torch.enable_grad():
            try:
                with self.randomness.watched():
                    loss = self.loss_fn(probe, x.clone())
            except Exception as error:
                raise ValueError(_reason(error, x, is_answered=bool(probe.calls))) from error
            if not probe.calls:
                raise ValueError(
                    "The loss never calls the network: call it as network(z, ...), and audit the "
                    "function that does."
                )
            total = _total(loss)
            self.is_finite = bool(total.isfinite())
            gradients = _gradients(total, [call.answer for call in probe.calls])
        for call, gradient in zip(probe.calls, gradients, strict=True):
            call.gradient = gradient
        self.untrained = [i for i, call in enumerate(probe.calls) if call.gradient is None]
        return [call for call in probe.calls if call.gradient is not None]


def _reason(error: Exception, x: Tensor, *, is_answered: bool) -> str:
    """Why a loss could not be called."""
    if "functorch" in str(error) or "vmap" in str(error):
        return (
            "The loss calls the network inside of torch.func (jvp, vmap, grad), which says nothing "
            "about its output there: audit a loss that calls it directly."
        )
    text = f"The loss raised {_described(error)} (x has shape {list(x.shape)})"
    return text + (_ANSWERS if is_answered else "")


_ANSWERS = (
    "; the stand-in answers with a tensor like the data, a tuple of it, a pair of it and zeros, or "
    "under .sample: wrap other outputs of the network in a function."
)


def _gradients(total: Tensor, answers: list[Tensor]) -> tuple[Tensor | None, ...]:
    """Of the loss, with respect to the answers; None for those that it does not depend on."""
    if not total.requires_grad:
        raise ValueError(
            "The loss does not depend on the network's output: it is detached, or computed under "
            "no_grad."
        )
    try:
        gradients = torch.autograd.grad(total, answers, allow_unused=True)
    except RuntimeError as error:
        raise ValueError(
            "The gradient of the loss cannot be taken: return the loss without calling "
            f"backward() on it ({_one_line(error)[:100]})."
        ) from error
    if all(gradient is None for gradient in gradients):
        raise ValueError(
            "No gradient of the loss reaches the network's output: if it is called by "
            "torch.utils.checkpoint, pass use_reentrant=False."
        )
    return gradients


def _total(loss: Any) -> Tensor:
    """The loss as one number: of a tuple the first item, of a dict the item "loss"."""
    if isinstance(loss, dict):
        if "loss" not in loss:
            keys = ", ".join(map(str, loss)) or "nothing"
            raise ValueError(f"The loss is a dict of {keys}: return it under 'loss'.")
        loss = loss["loss"]
    if isinstance(loss, tuple | list) and loss:
        loss = loss[0]
    if not isinstance(loss, Tensor):
        raise ValueError(f"The loss is a {type(loss).__name__}: return a tensor.")  # noqa: TRY004
    return loss.sum()


def _described(error: Exception) -> str:
    """Type, message and place of an error in somebody else's code."""
    frames = traceback.extract_tb(error.__traceback__)
    ours = str(Path(__file__).parent)
    libraries = (sysconfig.get_path("stdlib"), sysconfig.get_path("purelib"), ours, "<frozen ")
    theirs = [frame for frame in frames if not frame.filename.startswith(libraries)]
    frame = (theirs or frames)[-1]
    place = f"{Path(frame.filename).name}, line {frame.lineno}"
    return f"{type(error).__name__} ({place}): {_one_line(error) or 'no message'}"


def _one_line(error: Exception) -> str:
    text = " ".join(str(error).split())
    return text if len(text) <= 300 else text[:300] + "…"
