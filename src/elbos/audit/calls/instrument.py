r"""A stand-in network that is passed to a loss, and records network inputs, outputs and loss
gradients.

The stand-in returns a prescribed tensor, called the answer. The gradient of the loss with respect
to the answer shows how the loss depends on the network output. Random states are reset before each
call (`rng`), so that two calls differ only in the data or in the answer.
"""

import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from elbos.audit.calls.arguments import Arguments, noisy_data, wider_axis
from elbos.audit.calls.rng import Draws, Quantiles, Recorder
from elbos.base.errors import LIBRARIES, message
from elbos.theory.process import align

LossFunction = Callable[[Any, Tensor], Any]


@dataclass(frozen=True)
class OutputForm:
    """Python type and tensor shape of the network output that a loss expects."""

    container: Literal["tensor", "tuple", "pair"] = "tensor"  # a pair: with a zero per sample
    multiple: int = 1  # channels per channel of the data; 2 if a variance is learned
    is_wide: bool = False  # shaped like the network's input, not like the data


_FORMS = [
    OutputForm(),
    OutputForm("tuple"),
    OutputForm("pair"),
    OutputForm(is_wide=True),
    OutputForm("tuple", is_wide=True),
    OutputForm(multiple=2),
    OutputForm("tuple", multiple=2),
]


class BroadcastError(ValueError):
    """Error raised if the network input has more axes than the data."""


@dataclass(frozen=True)
class Answer:
    """Output of a stand-in network instead of a prediction; 0 in calls without gradients."""

    scale: float = 0.0
    is_masked: bool = False  # set a random half of the elements to 0
    always_moved: tuple[int, ...] = ()  # indices of the network calls with scale 1
    second: float = 0.0  # value of the channels beyond the data's, such as a variance
    slope: float = 0.0  # derivative with respect to the input
    outputs: Mapping[int, Tensor] = field(default_factory=dict, compare=False)  # by network call


ZERO, SIGNS = Answer(), Answer(scale=1.0)


@dataclass
class Call:
    z: Tensor  # noisy data
    answer: Tensor  # a leaf of the graph
    arguments: Arguments
    gradient: Tensor | None = None  # None if the loss does not depend on the answer


@dataclass(frozen=True)
class Observation:
    calls: list[Call]  # the network calls on which the loss depends
    untrained: tuple[int, ...]  # indices of the network calls on which the loss does not depend
    is_finite: bool  # the loss is finite
    is_differentiated: bool  # the loss may have differentiated the network
    is_of_derivative: bool  # the loss depends on the network's derivative
    draws: Draws


class ProbeNetwork(nn.Module):
    """A stand-in network that records its arguments and returns a prescribed output."""

    def __init__(self, x: Tensor, form: OutputForm, answer: Answer = ZERO) -> None:
        super().__init__()
        self.x, self.form, self.answer = x, form, answer
        self.calls: list[Call] = []
        self.slopes: list[Tensor] = []  # derivatives, of calls with inputs that require gradients
        self.is_in_jvp = False  # torch.func differentiates the network
        self.device, self.dtype = x.device, x.dtype
        # Losses ask for a device or dtype by `next(network.parameters())`.
        self.unused = nn.Parameter(torch.zeros((), device=x.device, dtype=x.dtype))

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            advice = "set it in the loss to what your network has"
            if hasattr(Tensor, name):
                advice = "is it called as loss(network, x), in this order?"
            raise AttributeError(
                f"the stand-in for the network has no attribute {name!r}: {advice}"
            ) from None

    def __deepcopy__(self, memo: dict[int, Any]) -> "ProbeNetwork":
        return self

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        with torch._C.DisableTorchFunction():  # hides these operations from the recorder
            x, arguments = self.x, [*args, *kwargs.values()]
            z = noisy_data(arguments, x)
            self.is_in_jvp |= torch._C._functorch.is_gradtrackingtensor(z)
            if z.ndim > x.ndim and z.shape[-x.ndim :] == x.shape and z.numel() > x.numel():
                raise BroadcastError(
                    f"The network's input has shape {list(z.shape)} for data of shape "
                    f"{list(x.shape)}, as when times of other axes are broadcast: give data in the "
                    "shape that the loss expects."
                )
            if self.form.is_wide and (wider_axis(z, x) != 1 or z.shape[1] == 2 * x.shape[1]):
                raise ValueError("the network's input is not longer than the data, along one axis")
            is_wide = self.form.is_wide or z.shape[2:] != x.shape[2:]
            shape = list(z.shape if is_wide else x.shape)
            shape[:1] = z.shape[:1]
            shape[1] *= self.form.multiple
            prescribed = self.answer
            if len(self.calls) in prescribed.always_moved:
                prescribed = replace(prescribed, scale=1.0)
            elif not torch.is_grad_enabled():
                prescribed = replace(prescribed, scale=0.0)
            value = prescribed.outputs.get(len(self.calls))
            if value is None:
                value = _values(tuple(shape), self.form.multiple, prescribed)
            dtype = z.dtype if z.dtype in (torch.float32, torch.float64) else torch.float32
            leaf = value.to(z.device, dtype, copy=True).requires_grad_()
            call = Call(z.detach().clone(), leaf, Arguments.of_call(z, args, kwargs))
        self.calls.append(call)
        answer = leaf.clone()  # losses may change it in place, which a view of a leaf forbids
        inputs = [
            tensor for tensor in arguments if isinstance(tensor, Tensor) and tensor.requires_grad
        ]
        if inputs:
            self.slopes.append(torch.full_like(leaf, self.answer.slope).requires_grad_())
        for tensor in inputs:
            change = tensor - tensor.detach()
            answer = answer + self.slopes[-1] * (
                change if tensor.shape == leaf.shape else change.sum()
            )
        # a view would hold `answer`, which holds it, in C++, where no cycle is ever freed
        answer.sample = answer.clone()  # type: ignore[attr-defined]
        if self.form.container == "pair":
            return answer, align(torch.zeros_like(leaf.flatten(1)[:, 0]), call.z)
        is_tuple = self.form.container == "tuple" or kwargs.get("return_dict") is False
        return (answer,) if is_tuple else answer


@lru_cache(maxsize=8)
def _values(shape: tuple[int, ...], multiple: int, answer: Answer) -> Tensor:
    value = answer.scale * random_signs(shape, seed=1)
    if answer.is_masked:
        value *= random_signs(shape, seed=2) > 0
    if multiple > 1:
        value[:, shape[1] // multiple :] = answer.second
    return value


def random_signs(shape: tuple[int, ...], seed: int) -> Tensor:
    """Draw random signs that are the same in every call, and change no random state."""
    generator = torch.Generator().manual_seed(seed)
    return 2 * torch.randint(2, shape, generator=generator).float() - 1


@dataclass
class Instrument:
    """A loss function and the form of network output that it expects."""

    loss_fn: LossFunction
    form: OutputForm
    recorder: Recorder = field(default_factory=Recorder)

    @classmethod
    def for_loss(cls, loss_fn: LossFunction, x: Tensor, seed: int) -> "Instrument":
        """Determine the form of network output that a loss accepts.

        Raises:
            ValueError: If the loss accepts no form; the message is about the first form.
        """
        failure: ValueError | None = None
        for form in _FORMS:
            instrument = cls(loss_fn, form)
            try:
                calls = instrument(x, seed).calls
            except BroadcastError:
                raise
            except ValueError as error:
                failure = failure or error
                continue
            # A loss of `output[0]` has a gradient at the first sample only. Without any gradient,
            # the target may be the network's own output.
            for gradient in (call.gradient for call in calls if call.gradient is not None):
                if gradient[1:].any() or not gradient[:1].any() or len(gradient) == 1:
                    return instrument
            failure = failure or ValueError(
                "The loss takes no account of the network's output for some samples: check that "
                "it does not index the output."
            )
        raise failure or AssertionError

    def __call__(
        self, x: Tensor, seed: int, answer: Answer = ZERO, quantiles: Quantiles | None = None
    ) -> Observation:
        """Evaluate the loss with a seed, or `quantiles` of its draws, and a prescribed network
        output.

        Raises:
            ValueError: In one line, if the loss fails, calls no network, or returns no loss.
        """
        network = ProbeNetwork(x, self.form, answer)
        self.recorder.reset(seed, len(x), quantiles)
        with torch.inference_mode(False), torch.enable_grad():
            try:
                with self.recorder.recording():
                    loss = self.loss_fn(network, x.clone())  # it may change its data
            except BroadcastError:
                raise
            except Exception as error:
                raise ValueError(_reason(error, x, network)) from error
            if not network.calls:
                raise ValueError(
                    "The loss never calls the network: call it as network(z, ...), and audit the "
                    "function that does."
                )
            total = _total(loss)
            if not total.requires_grad:
                raise ValueError(
                    "The loss does not depend on the network's output: it is detached, or computed "
                    "under no_grad."
                )
            leaves = [*(call.answer for call in network.calls), *network.slopes]
            try:
                gradients = torch.autograd.grad(total, leaves, allow_unused=True)
            except RuntimeError as error:
                raise ValueError(
                    "The gradient of the loss cannot be taken: return the loss without calling "
                    f"backward() on it ({message(error)[:100]})."
                ) from error
        for call, gradient in zip(network.calls, gradients, strict=False):
            call.gradient = gradient
        calls = [call for call in network.calls if call.gradient is not None]
        if not calls:
            raise ValueError(
                "No gradient of the loss reaches the network's output: an energy model's score is "
                "not its output but its derivative, so audit a network that returns the score; and "
                "torch.utils.checkpoint needs use_reentrant=False."
            )
        slope_gradients = gradients[len(network.calls) :]
        return Observation(
            calls,
            tuple(i for i, call in enumerate(network.calls) if call.gradient is None),
            bool(total.isfinite()),
            bool(network.slopes),
            any(slope is not None and bool(slope.any()) for slope in slope_gradients),
            self.recorder.draws,
        )


def _reason(error: Exception, x: Tensor, network: ProbeNetwork) -> str:
    if network.is_in_jvp:
        return (
            "The loss differentiates the network by torch.func (jvp, vjp, grad): its target holds "
            "the network's own derivative, as in MeanFlow, which no weighting describes. Audit the "
            "plain part of the loss, of MeanFlow that with r = t, flow matching."
        )
    if "functorch" in str(error) or "vmap" in str(error):
        return (
            "The loss calls the network inside of torch.func (jvp, vmap, grad), which says nothing "
            "about its output there: audit a loss that calls it directly."
        )
    frames = traceback.extract_tb(error.__traceback__)
    theirs = [frame for frame in frames if not frame.filename.startswith(LIBRARIES)]
    frame = (theirs or frames)[-1]
    text = (
        f"The loss raised {type(error).__name__} ({Path(frame.filename).name}, line "
        f"{frame.lineno}): {message(error)}"
    )
    if isinstance(error, NameError):  # no other shape of the data can help
        return f"{text}."
    text = f"{text} (called as loss(network, x), x of shape {list(x.shape)}"
    if not network.calls:
        return f"{text}: if that is not the shape of your data, give theirs, [batch, ...])."
    return (
        f"{text}, the network's input {list(network.calls[-1].z.shape)}); the stand-in answers "
        "with a tensor like the data, a tuple of it, a pair of it and zeros, or under .sample: "
        "wrap other outputs of the network in a function."
    )


def _total(loss: object) -> Tensor:
    if isinstance(loss, dict):
        if "loss" not in loss:
            keys = ", ".join(map(str, loss)) or "nothing"
            raise ValueError(f"The loss is a dict of {keys}: return it under 'loss'.")
        loss = loss["loss"]
    if isinstance(loss, tuple | list) and loss:
        loss = loss[0]
    if not isinstance(loss, Tensor):
        raise ValueError(f"The loss is a {type(loss).__name__}: return a tensor.")
    return loss.sum()
