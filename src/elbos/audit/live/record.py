r"""Audit of a running training, from a few steps recorded with the real network.

Hooks record the network's input $z$, the output $\hat y$ and the gradient $g$ of the loss with
respect to the output; random draws are recorded, and no random state is reset. With clean data $x$
and all normal draws $\epsilon_m$ known, two small least-squares problems per sample,

$$z = \alpha x + \sum_m \sigma_m \epsilon_m, \qquad
  g = 2c\,(\hat y - a x - \sum_m b_m \epsilon_m),$$

give all coefficients (`steps`), because a network's output is no exact combination of data and
noise. That the loss is a squared error is tested by its second derivative (`is_off`). The clean
data are the argument of `torch.randn_like(x)` in the loss, unless they are given.
"""

import hashlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import torch
import torch.distributed as dist
from jaxtyping import Bool, Float
from torch import Tensor, nn

from elbos.audit.calls.arguments import Arguments, Slot, tensors
from elbos.audit.calls.instrument import random_signs
from elbos.audit.calls.rng import Draws, Recorder, append_recent
from elbos.audit.diagnostics import (
    ClippedInput,
    DerivativeTerm,
    Diagnostic,
    LearnedVariance,
    NotQuadratic,
    SharedDraws,
    SkippedCalls,
    scatter,
)
from elbos.audit.estimate import Estimate
from elbos.audit.live.components import MAX_DRAWS, Components, components
from elbos.audit.live.steps import MIN_SAMPLES, Step, samples_of
from elbos.audit.probing.decompose import gram_of
from elbos.audit.probing.refusals import altered
from elbos.audit.probing.squared_error import MAX_OTHER
from elbos.audit.result import Audit
from elbos.base.processes import require_processes

_NUM_FINGERPRINTED = 64  # numbers
_MAX_OFF = 0.05  # share of tested samples
_MAX_UNTESTED = 8  # outputs


class Recording:
    """Recorded training steps from which the training loss can be audited.

    Attributes:
        num_samples: Number of recorded samples.
        reason: Why the latest step was not recorded, or "".
    """

    def __init__(self) -> None:
        self.reason = (
            "the network was not called, not with gradients, or it was compiled: record what "
            "torch.compile returned"
        )
        self._skipped = Counter[str]()  # calls that are not recorded, by reason
        self._clipped: list[str] = []  # how inputs are, by call
        self._num_shared = 0  # steps with one noise for several samples
        self._recorder = LiveRecorder(self._test)
        self._given: Tensor | None = None
        self._error = 0.0
        self._is_differentiated = self._is_testing = self._has_rest = False
        self._untested: list[tuple[Tensor, int]] = []  # outputs of the step, and sizes of samples
        self._num_backward = 0
        self._is_off = torch.empty(0, dtype=torch.bool)  # one entry per tested sample
        self._steps: list[Step] = []
        self._example: Arguments | None = None  # arguments of the latest step
        self._network: nn.Module | None = None  # the network that the recorded steps called

    @property
    def num_samples(self) -> int:
        return sum(map(len, self._steps))

    def data(self, x: Float[Tensor, "b *d"]) -> None:
        """Set the clean data of the current step before the network is called, needed where the
        loss does not draw its noise by `torch.randn_like(x)`.

        Args:
            x: The data as the loss diffuses them, in the shape of the network's input.
        """
        self._given = x.detach()

    def audit(self, *, title: str = "recorded loss", is_shared: bool = False) -> Audit:
        """Estimate the implied weighting of the loss from the recorded training steps.

        Args:
            title: Name of the loss in reports.
            is_shared: Whether all processes of `torch.distributed` make this call: a diagnostic
                then says if two of them trained on the same noise, noise levels or data. Default:
                this process's steps alone.

        Raises:
            ValueError: In one line, if too few samples were recorded, or the loss is no squared
                error in normal noise.
        """
        # This comes first, because other processes wait for this one even if its audit fails.
        shared = self._shared_between_processes() if is_shared else []
        if self.num_samples < MIN_SAMPLES:
            raise ValueError(
                f"{self.num_samples} samples were recorded, of at least {MIN_SAMPLES}: "
                f"{self.reason or 'record more steps'}."
            )
        diagnostics = [*([DerivativeTerm()] if self._is_differentiated else []), *shared]
        num_skipped = self._skipped.total()
        num_calls = len(self._steps) + num_skipped
        if len(self._clipped) > _MAX_OFF * num_calls:
            diagnostics.append(ClippedInput(len(self._clipped) / num_calls, self._clipped[-1]))
        elif num_skipped > _MAX_OFF * num_calls:
            ((reason, _),) = self._skipped.most_common(1)
            diagnostics.append(SkippedCalls(num_skipped / num_calls, reason))
        if self._has_rest:
            diagnostics.append(LearnedVariance())
        noise = [step.fingerprints["noise"] for step in self._steps]
        for between, num in (
            ("steps", len(noise) - len(set(noise))),
            ("samples of a batch", self._num_shared),
        ):
            if num > _MAX_OFF * len(noise):
                diagnostics.append(SharedDraws(num / len(noise), "noise", between))
        if (share := self._is_off.double().mean().item()) > _MAX_OFF:
            diagnostics.append(NotQuadratic(share))
        samples = samples_of(self._steps, self._example, self._error, diagnostics)
        if not len(self._is_off):  # the target alone shows further terms, half as well
            samples = replace(samples, hidden_share=2 * samples.hidden_share)
        return Estimate.from_samples(samples).audit(samples, title=title)

    def _shared_between_processes(self) -> list[Diagnostic]:
        require_processes()
        every: list[list[dict[str, str]]] = [[] for _ in range(dist.get_world_size())]
        dist.all_gather_object(every, [step.fingerprints for step in self._steps])
        steps = list(zip(*every, strict=False))  # those that all processes recorded
        shares = {
            what: sum(len({process[what] for process in step}) < len(step) for step in steps)
            / len(steps)
            for what in (steps[0][0] if steps else ())
        }
        if len({step.fingerprints["noise levels"] for step in self._steps}) == 1:  # not drawn
            shares.pop("noise levels", None)
        return [
            SharedDraws(share, what, "processes") for what, share in shares.items() if share > 0
        ]

    def _test(self, loss: Tensor) -> None:
        # Steps 1, 2, 4, 8, ... see all stages of a training at little cost.
        self._num_backward += 1
        outputs, self._untested = self._untested, []
        if self._num_backward & (self._num_backward - 1):
            return
        self._is_testing = True
        try:
            for output, size in outputs:
                if not output._backward_hooks:  # FSDP2 begins its backward pass in one
                    self._is_off = torch.cat([self._is_off, is_off(loss, output, size)])
        except RuntimeError:
            pass  # torch cannot differentiate the loss twice
        finally:
            self._is_testing = False

    def _skip(self, reason: str) -> None:
        self.reason = reason
        self._skipped[reason] += 1

    def _called(self, network: nn.Module, args: Any, kwargs: Any, output: object) -> None:
        with torch._C.DisableTorchFunction():
            answer = next(tensors(output), None)
            if not torch.is_grad_enabled() or not (answer is None or answer.requires_grad):
                return
            call = self._read(answer, args, kwargs)
            if isinstance(call, str):
                self._skip(call)
                return
            assert answer is not None
            self._recorder.forget()
            self._given = None
            self._has_rest |= answer[0].numel() > call.output[0].numel()
            has_layout = call.parts.argument.shape == call.parts.z.shape
            self._example = call.arguments if has_layout else None
            # A hook of the function that made the output sees what the output's own hooks, which
            # the training may register later, make of the gradient.
            assert answer.grad_fn is not None
            place = answer.output_nr
            answer.grad_fn.register_prehook(
                lambda gradients: self._differentiated(network, call, gradients[place])
            )
            # few, since some loops never call Tensor.backward, which is where they are tested
            self._untested = [*self._untested[-_MAX_UNTESTED:], (answer, call.output[0].numel())]

    def _read(self, answer: Tensor | None, args: Any, kwargs: Any) -> "_Call | str":
        """Return what a call of the network was given, or why it is not recorded."""
        if answer is None:
            return "the module returns no batch: of one that returns a loss, record its network"
        draws, likes = self._recorder.draws, self._recorder.likes
        data = likes if self._given is None else [self._given]
        inputs = [value for value in tensors([args, kwargs]) if value.shape[0] == len(answer)]
        parts = components(inputs, data, draws.normals)
        if parts is None and data:
            return (
                "the network's input is not the data, scaled, plus a normal draw, with data as "
                "torch.randn_like got them: if they are others, call recorded.data(x)"
            )
        if parts is None:
            return "the loss does not draw its noise by torch.randn_like(x): call recorded.data(x)"
        z = parts.z
        if how := altered(z):
            self._clipped.append(how)
            return f"the network's input is {how}: give it the noisy data themselves"
        if answer.shape[0] != len(z) or answer.numel() not in (z.numel(), 2 * z.numel()):
            return "the output has neither the size of the noisy data nor twice that"
        other = [value for value in (*args, *kwargs.values()) if value is not parts.argument]
        arguments = Arguments.of_call(parts.argument, args, kwargs)
        if self._example is not None:
            arguments = arguments.beside(self._example)
        quantiles: dict[str, list[Tensor]] = {}
        for design in reversed(draws.designs(len(z))):
            quantiles.setdefault(design.name, []).append(design.logits)
        return _Call(
            parts=parts,
            output=answer.detach().reshape(len(z), -1)[:, : z[0].numel()].clone(),
            arguments=arguments,
            numbers=arguments.numbers(),
            conditions=list(scatter.numbers([*other, *parts.rest], len(z))),
            quantiles=quantiles,
        )

    def _differentiated(self, network: nn.Module, call: "_Call", g: Tensor | None) -> None:
        with torch._C.DisableTorchFunction():
            if self._is_testing or g is None:
                return
            if torch.is_grad_enabled():  # create_graph: not yet the gradient of the loss
                self._is_differentiated = True
                return
            parts, size = call.parts, call.output[0].numel()
            vectors = (parts.x, parts.z, call.output)
            eps = max(torch.finfo(value.dtype).eps for value in (*vectors, g))
            self._error = max(self._error, eps / size**0.5)
            gradient = g.detach().reshape(len(g), -1)[:, :size].double() * len(g)
            # A loop may train by torch.autograd.grad, or only log by it beside `backward`.
            if self._recorder.is_in_grad:
                call.by_grad = call.by_grad + gradient
            else:
                call.by_backward = call.by_backward + gradient
            self.reason = ""
            if call.place is None:
                call.place, self._network = len(self._steps), network
                noise = parts.draws[0]
                self._num_shared += len(noise) > 1 and torch.equal(noise[0], noise[1])
            self._steps[call.place : call.place + 1] = [call.step()]


@contextmanager
def record(model: nn.Module) -> Iterator[Recording]:
    """Record training steps with the real network to audit the training loss.

    Training is unaffected: random states, gradients and the number of calls stay the same. Each
    step must call the network once with gradients, on data plus noise; calls without gradients do
    not count. A few hundred steps determine the weighting to a few per cent.

    Args:
        model: The network, as the training calls it: what `torch.compile` returned, or `prepare`.

    Examples:
        >>> import torch
        >>> network = torch.nn.Bilinear(32, 1, 32)
        >>> x = torch.rand(64, 32)
        >>> with record(network) as recorded:
        ...     for _ in range(40):
        ...         t, eps = torch.rand(64, 1), torch.randn_like(x)
        ...         y = network((1 - t) * x + t * eps, t)
        ...         (y - (eps - x)).square().mean().backward()
        >>> audit = recorded.audit()
        >>> audit.parameterization, audit.process, audit.num_samples
        ('flow', 'rectified flow', 2560)
    """
    recording = Recording()
    hook = model.register_forward_hook(recording._called, with_kwargs=True)
    try:
        with recording._recorder.recording():
            yield recording
    finally:
        hook.remove()


def is_off(loss: Tensor, output: Tensor, size: int) -> Bool[Tensor, " n"]:
    r"""Test whether the second derivative of a loss is not that of a squared error, by sample.

    If the loss is $c\,\|\hat y - y\|^2$ in every sample, $H v = 2 c v$ for every vector $v$;
    additional terms, norms and other powers of the error change the direction. $v$ is the
    normalized gradient plus random signs, in the first `size` elements of each sample of the
    output: the gradient shows how the loss grows with the error, the signs whether elements are
    coupled. The network is not called again. A coefficient computed from the detached error has the
    second derivative of a squared error.

    Raises:
        RuntimeError: If torch cannot differentiate the loss twice, as a compiled one.
    """
    (gradient,) = torch.autograd.grad(loss, output, create_graph=True)
    g = gradient.detach().reshape(len(output), -1)[:, :size].double()
    v = random_signs((size,), seed=1).to(g) + g / g.square().mean(1, keepdim=True).sqrt().clamp(
        min=1e-300
    )
    direction = torch.zeros(output.shape, dtype=output.dtype, device=output.device)
    direction.view(len(output), -1)[:, :size] = v.to(output.dtype)
    h = torch.zeros_like(v)
    if gradient.requires_grad:
        (change,) = torch.autograd.grad(gradient, output, direction, retain_graph=True)
        h = change.reshape(len(output), -1)[:, :size].double()
    along = (h * v).sum(1, keepdim=True) / v.square().sum(1, keepdim=True)
    tolerance = MAX_OTHER[torch.finfo(output.dtype).bits < 32] * h.norm(dim=1)
    off: Tensor = (h - along * v).norm(dim=1) > tolerance
    return off[g.any(1)].cpu()


class LiveRecorder(Recorder):
    """Recorder that leaves random states unchanged and keeps the latest draws of each shape."""

    def __init__(self, before_backward: Callable[[Tensor], None]) -> None:
        super().__init__()
        self.before_backward = before_backward
        self.draws = Draws(MAX_DRAWS)
        self.likes: list[Tensor] = []  # arguments of torch.randn_like
        self.is_in_grad = False  # whether torch.autograd.grad is running

    def forget(self) -> None:
        self.draws, self.likes = Draws(MAX_DRAWS), []

    @property
    def _is_in_loop(self) -> bool:
        return False

    def __torch_function__(
        self, func: Any, types: object, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is torch.autograd.grad:
            self.is_in_grad = True
            try:
                return func(*args, **(kwargs or {}))
            finally:
                self.is_in_grad = False
        if func is Tensor.backward:
            self.before_backward(args[0])
        if func is torch.randn_like:
            like = args[0] if args else (kwargs or {})["input"]
            append_recent(self.likes, like.detach().clone(), MAX_DRAWS)
        return super().__torch_function__(func, types, args, kwargs)


def _fingerprint(*values: Tensor) -> str:
    first = [value.detach().flatten()[:_NUM_FINGERPRINTED].double().cpu() for value in values]
    return hashlib.sha256(b"".join(tensor.numpy().tobytes() for tensor in first)).hexdigest()


@dataclass(kw_only=True)
class _Call:
    """Call of the network with gradients."""

    parts: Components
    output: Tensor
    arguments: Arguments
    numbers: Mapping[Slot, Tensor]  # those arguments of one number per sample
    conditions: list[Tensor]
    quantiles: dict[str, list[Tensor]]
    place: int | None = None  # index of the step, once the call has a gradient
    by_backward: Tensor = field(default_factory=lambda: torch.zeros(()))  # gradient of all passes
    by_grad: Tensor = field(default_factory=lambda: torch.zeros(()))  # of torch.autograd.grad

    def step(self) -> Step:
        parts, gradient = self.parts, self.by_backward if self.by_backward.any() else self.by_grad
        return Step(
            gram=gram_of([parts.x, parts.z, self.output, gradient, *parts.draws]),
            shapes=parts.shapes,
            size=self.output[0].numel(),
            axis=parts.axis,
            quantiles=self.quantiles,
            conditions=self.conditions,
            inputs=self.numbers,
            fingerprints={
                "noise": _fingerprint(parts.draws[0][0]),
                "noise levels": _fingerprint(*self.numbers.values()),
                "data": _fingerprint(parts.x[0]),
            },
        )
