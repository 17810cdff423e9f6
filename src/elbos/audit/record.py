r"""The weighting of a live training: some of its steps observed, on the real network.

`probe` asks a loss questions; here it is only listened to. Hooks record the network's input $z$,
its output $\hat y$ and the gradient $g$ of the loss with respect to it; the draws of the loss are
recorded, and none is reset. With clean data $x$ and all normal draws $\epsilon_m$ known, two small
least-squares problems per sample,

$$z = \alpha x + \sum_m \sigma_m \epsilon_m, \qquad
  g = 2c\,(\hat y - a x - \sum_m b_m \epsilon_m),$$

have all coefficients, because a network's output is no exact combination of data and noise. The
noise is the sum of draws in $z$, and what they leave is judged as in `probe`. The clean data are
what noise was drawn like, `torch.randn_like(x)`, unless they are given. What a step computes stays
as it is, bit for bit.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from elbos.audit import scatter
from elbos.audit.diagnostics import CentredNoise, DerivativeTerm, Diagnostic
from elbos.audit.estimate import audit_of_samples
from elbos.audit.measure import NUM_BLOCKS, Samples
from elbos.audit.noise import (
    MAX_UNEXPLAINED,
    Parts,
    of_the_draws,
    of_the_parts,
    of_the_target,
)
from elbos.audit.queries import is_shared, without_mean
from elbos.audit.refusals import REFUSAL, require_explained
from elbos.audit.result import Audit
from elbos.audit.rng import Recorder
from elbos.audit.scales import process_of, told_scale
from elbos.audit.scatter import Told

_MIN_SAMPLES = 100
_MIN_OWN = 1e-7  # share of the output that is no combination of data and noise; less is rounding
_ROUNDING = 1e-6  # of a coefficient in float32, by all that was computed before
_MAX_LEFT = 0.05  # share of the gradient of a squared error that its combination may leave
_MAX_DRAWS = 8  # of the size of the data, the last; and of those that elements share
_X, _Z, _OUTPUT, _GRADIENT, _FIRST_DRAW = range(5)  # places in a Gram matrix


@dataclass
class _Step:
    """What is kept of a step: the dot products of its vectors, and what was drawn and given."""

    gram: Float[Tensor, "b r r"]  # of x, z, output, gradient and draws, shared ones last
    shapes: Sequence[Sequence[int]]  # of the shared draws
    size: int  # of a sample
    axis: int | None  # along which the draws have no mean
    quantiles: list[Tensor]
    told: list[Tensor]  # numbers that the network is given

    def __len__(self) -> int:
        return len(self.gram)


class Recording:
    """What was recorded of a training; `record` makes it.

    Attributes:
        num_samples: How many samples were recorded.
        reason: Why the latest step was not, or "".
    """

    def __init__(self, model: nn.Module) -> None:
        self.reason = (
            "the network was not called, not with gradients, or it was compiled: record what "
            "torch.compile returned"
        )
        self._model = model
        self._draws = _Draws()
        self._given: Tensor | None = None
        self._error = 0.0
        self._is_differentiated = False
        self._steps: list[_Step] = []

    @property
    def num_samples(self) -> int:
        return sum(map(len, self._steps))

    def data(self, x: Float[Tensor, "b *d"]) -> None:
        """Say what the clean data of this step are, before the network is called.

        Needed where the loss does not draw its noise by `torch.randn_like(x)`.

        Args:
            x: The data as the loss diffuses them, in the shape of the network's input.
        """
        self._given = x.detach()

    def audit(self, *, title: str = "recorded loss", data_scale: float | None = None) -> Audit:
        """The audit of what was recorded.

        Args:
            title: Its name in reports.
            data_scale: As `probe`'s.

        Raises:
            ValueError: In one line, if there is too little, or no squared error in normal noise.
        """
        if self.num_samples < _MIN_SAMPLES:
            raise ValueError(
                f"{self.num_samples} samples were recorded, of at least {_MIN_SAMPLES}: "
                f"{self.reason or 'record more steps'}."
            )
        found: list[Diagnostic] = [DerivativeTerm()] if self._is_differentiated else []
        samples = _samples(self._steps, data_scale, self._error, found)
        return audit_of_samples(samples, title=title)

    @contextmanager
    def observing(self) -> Iterator["Recording"]:
        """Record what happens meanwhile."""
        hook = self._model.register_forward_hook(self._called, with_kwargs=True)
        try:
            with self._draws.recording():
                yield self
        finally:
            hook.remove()

    def _called(self, _: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        with torch._C.DisableTorchFunction():
            answer = next(_tensors(output), None)
            if answer is None or not answer.requires_grad or not torch.is_grad_enabled():
                return
            draws, given, self._given = self._draws.taken(len(answer)), self._given, None
            inputs = [one for one in _tensors([args, kwargs]) if one.shape[0] == len(answer)]
            found = _components(inputs, draws, given)
            if found is None:
                self._missed(draws, given)
                return
            z = found.z
            if answer.shape[0] != len(z) or answer.numel() < z.numel():
                self.reason = "the output is smaller than the noisy data"
                return
            output = answer.detach().reshape(len(z), -1)[:, : z.numel() // len(z)]
            conditions = [one for one in (*args, *kwargs.values()) if one is not found.given]
            told = list(scatter.numbers(conditions, len(z)))
            listen: Any = answer.register_hook
            listen(lambda g: self._differentiated(found, output, g, draws.quantiles, told))

    def _missed(self, draws: "_Taken", given: Tensor | None) -> None:
        if draws.is_first:
            return  # its draws were not recorded
        self.reason = (
            "the network's input is not the data, scaled, plus a normal draw"
            if draws.likes or given is not None
            else "the loss does not draw its noise by torch.randn_like(x): call recorded.data(x)"
        )

    def _differentiated(
        self,
        found: "_Components",
        output: Tensor,
        g: Tensor,
        quantiles: list[Tensor],
        told: list[Tensor],
    ) -> None:
        with torch._C.DisableTorchFunction():
            if torch.is_grad_enabled():  # with create_graph, not yet the gradient of the loss
                self._is_differentiated = True
                return
            vectors = (found.x, found.z, output)
            eps = max(torch.finfo(one.dtype).eps for one in (*vectors, g))
            self._error = max(self._error, eps / output[0].numel() ** 0.5)
            flat = [one.detach().flatten(1).double() for one in vectors]
            gradient = g.detach().reshape(len(g), -1)[:, : flat[0].shape[1]].double() * len(g)
            gram = _gram([*flat, gradient, *found.draws])
            self._steps.append(
                _Step(gram, found.shapes, output[0].numel(), found.axis, quantiles, told)
            )
            self.reason = ""


@contextmanager
def record(model: nn.Module) -> Iterator[Recording]:
    """Record some steps of a training on the real network, to audit its loss.

    Nothing is changed: no random state, no gradient, no further call. Each step calls the network
    once with gradients, on data plus noise; calls without gradients do not count. The first step
    is not recorded. A few hundred steps give the weighting to some per cent.

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
        ('flow', 'rectified flow', 2496)
    """
    recording = Recording(model)
    with recording.observing():
        yield recording


class _Taken:
    """The draws since the last call of the network."""

    def __init__(self, draws: "_Draws") -> None:
        self.normals, self.likes, self.quantiles = draws.normals, draws.likes, draws.quantiles
        self.is_first = not draws.is_started


class _Draws(Recorder):
    """Records draws, resets nothing; what the first batch draws is not recorded."""

    def __init__(self) -> None:
        super().__init__()
        self.likes: list[Tensor] = []  # tensors that normal numbers were drawn like
        self.is_started = False

    def taken(self, num: int) -> _Taken:
        """The draws since the last time; the next are those of a batch of `num` samples."""
        result = _Taken(self)
        self.normals, self.quantiles, self.places, self.likes = [], [], [], []
        self._num, self.is_started = num, True
        return result

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if not self.is_started:
            return func(*args, **(kwargs or {}))
        if func is torch.randn_like:
            self.likes.append((args[0] if args else (kwargs or {})["input"]).detach().clone())
        return super().__torch_function__(func, types, args, kwargs)


def _tensors(value: Any) -> Iterator[Tensor]:
    """The floating-point tensors of more than one dimension in a value."""
    if isinstance(value, Tensor):
        if value.is_floating_point() and value.ndim > 1:
            yield value
    elif isinstance(value, dict):
        yield from _tensors(list(value.values()))
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _tensors(item)
    elif hasattr(value, "sample"):
        yield from _tensors(value.sample)


@dataclass
class _Components:
    """What a network's input consists of."""

    x: Tensor
    z: Tensor  # the noisy data, in the shape of x
    given: Tensor  # the argument of the network that they are
    draws: list[Float[Tensor, "b d"]]
    shapes: Sequence[Sequence[int]]  # of the last of the draws, which elements share
    axis: int | None = None  # along which the draws have no mean

    @classmethod
    def of(cls, x: Tensor, given: Tensor, normals: list[Tensor]) -> "_Components":
        """The parts that an input may have, with the last of the draws."""
        size = x[0].numel()
        whole = [one for one in normals if one.shape[1:] == x.shape[1:] and is_shared(one, x)]
        shared = [one for one in normals if one.shape[1:] != x.shape[1:] and is_shared(one, x)]
        whole = whole[-min(_MAX_DRAWS, max(1, size // 2 - 2)) :]
        shared = shared[-min(_MAX_DRAWS, max(0, size // 2 - 2 - len(whole))) :] if size > 4 else []
        draws = [one.expand_as(x).flatten(1).double() for one in (*whole, *shared)]
        shapes = [one.shape for one in shared]
        return cls(x, given.detach().reshape(x.shape).clone(), given, draws, shapes)

    def centred(self, axis: int) -> Iterator["_Components"]:
        """The same with draws that have no mean along an axis, of data with one or without."""
        draws = [without_mean(one.reshape(self.x.shape), axis).flatten(1) for one in self.draws]
        for x in (self.x, without_mean(self.x, axis)):
            yield replace(self, x=x, draws=draws, axis=axis)

    @property
    def unexplained(self) -> float:
        """The share of the noise that is none of the draws, of most samples."""
        vectors = [self.x.flatten(1).double(), *self.draws, self.z.flatten(1).double()]
        gram, last = _gram(vectors), len(vectors) - 1
        factors, left = _least_squares(gram, list(range(last)), last)
        share = left * gram[:, last, last] / _noise_power(gram, factors[:, 0], 0, last)
        return share.nanmedian().item()


def _gram(vectors: list[Float[Tensor, "b d"]]) -> Float[Tensor, "b k k"]:
    stacked = torch.stack(vectors, dim=1)
    return (stacked @ stacked.mT).cpu()


def _noise_power(
    gram: Float[Tensor, "n k k"], alpha: Float[Tensor, " n"], x: int, z: int
) -> Float[Tensor, " n"]:
    """The squared norm of what is in the noisy data besides the data."""
    power = gram[:, z, z] - 2 * alpha * gram[:, x, z] + alpha**2 * gram[:, x, x]
    return power.clamp(min=1e-300)


def _components(inputs: list[Tensor], draws: _Taken, given: Tensor | None) -> _Components | None:
    """The clean data, the noisy data and the draws in them, the combination that leaves least."""
    every = [
        _Components.of(x, one, draws.normals)
        for x in (draws.likes if given is None else [given])
        for one in inputs
        if one.numel() == x.numel() and len(one) == len(x)
    ]
    for some in (every, [c for e in every for i in range(1, e.x.ndim) for c in e.centred(i)]):
        explained = [one for one in some if one.unexplained < MAX_UNEXPLAINED]
        if explained:
            return min(explained, key=lambda one: one.unexplained)
    return None


def _least_squares(
    gram: Float[Tensor, "n k k"], basis: list[int], of: int
) -> tuple[Float[Tensor, "n p"], Float[Tensor, " n"]]:
    """The coefficients of one vector in others, and the share of it that they leave."""
    products, right = gram[:, basis][:, :, basis], gram[:, basis, of]
    factors = torch.linalg.lstsq(products, right[:, :, None]).solution[:, :, 0]
    left = 1 - (factors * right).sum(1) / gram[:, of, of].clamp(min=1e-300)
    return factors, left.clamp(min=0)


def _joined(steps: list[_Step]) -> tuple[Float[Tensor, "n r r"], Sequence[Sequence[int]]]:
    """The dot products of all steps, with zeros for draws that a step did not have, and the shapes
    of the shared draws.
    """
    shapes = max((step.shapes for step in steps), key=len)
    num_whole = max(step.gram.shape[1] - len(step.shapes) for step in steps)
    grams = []
    for step in steps:
        own = step.gram.shape[1] - len(step.shapes)
        at = torch.tensor([*range(own), *range(num_whole, num_whole + len(step.shapes))])
        size = num_whole + len(shapes)
        gram = torch.zeros(len(step), size, size, dtype=torch.float64)
        gram[:, at[:, None], at] = step.gram
        grams.append(gram)
    return torch.cat(grams), shapes


def _samples(
    steps: list[_Step], data_scale: float | None, error: float, found: list[Diagnostic]
) -> Samples:
    """The coefficients of all samples.

    Args:
        steps: What was recorded.
        data_scale: As `probe`'s.
        error: Of the coefficients of the target, by rounding.
        found: What is known already.

    Raises:
        ValueError: In one line, if the gradient is no combination of data, noise and output.
    """
    gram, shapes = _joined(steps)
    sizes = [len(step) for step in steps]
    batch = torch.arange(len(steps), dtype=torch.float64).repeat_interleave(torch.tensor(sizes))
    num = min(len(step.quantiles) for step in steps)  # of draws in every step
    quantiles = torch.cat(
        [
            torch.stack(step.quantiles[:num], 1) if num else torch.empty(len(step), 0)
            for step in steps
        ]
    )
    draws = list(range(_FIRST_DRAW, gram.shape[1]))
    own = _least_squares(gram, [_X, *draws], _OUTPUT)[1]
    kept = (own > _MIN_OWN) & gram.isfinite().flatten(1).all(1)
    told = Told.from_batches([step.told for step in steps], sizes).at(kept)
    gram, batch, quantiles = gram[kept], batch[kept], quantiles[kept]
    if len(gram) < _MIN_SAMPLES:
        raise ValueError(
            "The network's output is 0, or a combination of data and noise: record later steps."
        )
    powers = gram.diagonal(dim1=1, dim2=2)
    scales, left = _least_squares(gram, [_X, *draws], _Z)
    alpha, of_draws = scales[:, 0], scales[:, 1:]
    noise_power = _noise_power(gram, alpha, _X, _Z)
    unexplained = left * powers[:, _Z] / noise_power
    shares = of_draws**2 * powers[:, draws]
    parts = Parts.of_factors(of_draws, shares, noise_power, unexplained, shapes)
    if not parts.whole:
        raise ValueError(REFUSAL)
    axes = {step.axis for step in steps} - {None}
    found = [*found, *(CentredNoise(float(axis)) for axis in axes if axis)]
    if parts.shared or len(parts.whole) > 1:
        found.append(of_the_parts(parts))

    factors, left = _least_squares(gram, [_X, *draws, _OUTPUT], _GRADIENT)
    if left.nanmedian() > _MAX_LEFT:
        raise ValueError(
            "The gradient is no combination of data, noise and the network's output: the loss is "
            "no squared error with one coefficient per sample."
        )
    c = factors[:, -1] / 2
    y = torch.where(c[:, None] == 0, 0.0, -factors[:, :-1] / (2 * c[:, None]))
    a, of_target = y[:, 0], y[:, 1:]
    rest = torch.where(c == 0, 0.0, left * powers[:, _GRADIENT] / (4 * c**2))
    at = [_X, *draws]
    target_power = ((gram[:, at][:, :, at] @ y[:, :, None])[:, :, 0] * y).sum(1)
    drawn = gram[:, draws][:, :, draws]
    drawn_power = ((drawn @ of_target[:, :, None])[:, :, 0] * of_target).sum(1) + rest
    shares = of_target**2 * powers[:, draws]
    target = Parts.of_factors(
        of_target, shares, drawn_power, rest / drawn_power.clamp(min=1e-300), shapes
    )
    gamma = 0.0
    if target.whole and not (target.shared or parts.shared):
        mean_square = (target_power.sum() / (steps[0].size * len(gram))).item()
        found, gamma = of_the_draws(parts, target, mean_square, found)

    used = of_draws[:, parts.whole]
    sigma = used.norm(dim=1)
    b = (of_target[:, parts.whole] * used).sum(1) / sigma.clamp(min=1e-300)
    a, b = (
        torch.where(one.abs() < 5 * error * other.abs(), 0.0, one)
        for one, other in ((a, b), (b, a))
    )
    b, alpha = torch.where(alpha < 0, -b, b), alpha.abs()
    nominal = sigma / (1 + gamma**2) ** 0.5  # before the input was perturbed
    told_as = told_scale(2 * (alpha / sigma).log(), told.single)
    process = process_of(alpha, nominal, offset=0.0, rtol=0.0, told=told_as)
    if data_scale is not None:
        process = process._replace(scale=data_scale)
    logsnr = process.logsnr(alpha, sigma)
    require_explained(unexplained, logsnr)
    factor = b - a * sigma / alpha
    if not any(one.is_fatal for one in found):
        has_target = logsnr.isfinite() & (c != 0)
        found += of_the_target((rest / target_power.clamp(min=1e-300))[has_target])
        found += scatter.of_the_target(logsnr[has_target], factor[has_target], error=0.0)
        found += told.diagnostics(logsnr, alpha, error=0.0)
        if error < _ROUNDING:
            found += scatter.of_the_coefficient(logsnr, c, noise_power / sigma**2)
    return Samples(
        logsnr=logsnr,
        a=a / process.scale,
        b=b,
        coefficient=c,
        eps_coefficient=c * factor**2,
        batch=batch,
        block=torch.floor(batch * NUM_BLOCKS / (batch.max() + 1)),
        process=process,
        data_offset=0.0,
        logsnr_error=error if error > _ROUNDING else 0.0,
        rounding=_ROUNDING * (1 / alpha + 1 / sigma),
        quantiles=quantiles,
        places=[None] * quantiles.shape[1],
        diagnostics=found,
    )
