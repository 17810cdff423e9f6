r"""The weighting of a live training: some of its steps observed, on the real network.

`probe` asks a loss questions; here it is only listened to. Hooks record the network's input $z$,
its output $\hat y$ and the gradient $g$ of the loss with respect to it; the draws of the loss are
recorded, and none is reset. With clean data $x$ and noise $\epsilon$ known, two small least-squares
problems per sample,

$$z = \alpha x + \sigma \epsilon, \qquad g = 2c\,(\hat y - a x - b \epsilon),$$

have all five coefficients, because a network's output is no exact combination of data and noise.
The noise is the normal draw that fits. The clean data are what it was drawn like,
`torch.randn_like(x)`, unless they are given. What a step computes stays as it is, bit for bit.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from elbos.audit.estimate import audit_of_samples
from elbos.audit.measure import NUM_BLOCKS, Samples
from elbos.audit.result import Audit
from elbos.audit.rng import Recorder
from elbos.audit.scales import process_of

_MIN_SAMPLES = 100
_MIN_OWN = 1e-7  # share of the output that is no combination of data and noise; less is rounding
_ROUNDING = 1e-6  # of a coefficient in float32, by all that was computed before
_MAX_LEFT = 0.05  # share of a vector that its combination may leave


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
        self._grams: list[Float[Tensor, "b 5 5"]] = []
        self._quantiles: list[list[Tensor]] = []

    @property
    def num_samples(self) -> int:
        return sum(map(len, self._grams))

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
        num = min(map(len, self._quantiles))  # of draws in every step
        quantiles = torch.cat(
            [
                torch.stack(some[:num], 1) if num else torch.empty(len(gram), 0)
                for some, gram in zip(self._quantiles, self._grams, strict=True)
            ]
        )
        steps = torch.arange(len(self._grams), dtype=torch.float64)
        batch = steps.repeat_interleave(torch.tensor([len(gram) for gram in self._grams]))
        samples = _samples(torch.cat(self._grams), batch, quantiles, data_scale, self._error)
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
            x, eps, z = found
            if answer.shape[0] != len(z) or answer.numel() < z.numel():
                self.reason = "the output is smaller than the noisy data"
                return
            vectors = [x, eps, z, answer.detach().reshape(len(z), -1)[:, : z.numel() // len(z)]]
            listen: Any = answer.register_hook
            listen(lambda g: self._differentiated(vectors, draws.quantiles, g))

    def _missed(self, draws: "_Taken", given: Tensor | None) -> None:
        if draws.is_first:
            return  # its draws were not recorded
        self.reason = (
            "the network's input is not the data, scaled, plus a normal draw"
            if draws.likes or given is not None
            else "the loss does not draw its noise by torch.randn_like(x): call recorded.data(x)"
        )

    def _differentiated(self, vectors: list[Tensor], quantiles: list[Tensor], g: Tensor) -> None:
        with torch._C.DisableTorchFunction():
            eps = max(torch.finfo(one.dtype).eps for one in (*vectors, g))
            self._error = max(self._error, eps / vectors[0][0].numel() ** 0.5)
            flat = [one.detach().flatten(1).double() for one in vectors]
            gradient = g.detach().reshape(len(g), -1)[:, : flat[0].shape[1]].double() * len(g)
            stacked = torch.stack([*flat, gradient], dim=1)
            self._grams.append((stacked @ stacked.mT).cpu())
            self._quantiles.append(quantiles)
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
        >>> network = torch.nn.Linear(32, 32)
        >>> x = torch.rand(64, 32)
        >>> with record(network) as recorded:
        ...     for _ in range(40):
        ...         t, eps = torch.rand(64, 1), torch.randn_like(x)
        ...         loss = (network((1 - t) * x + t * eps) - (eps - x)).square().mean()
        ...         loss.backward()
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


def _components(
    inputs: list[Tensor], draws: _Taken, given: Tensor | None
) -> tuple[Tensor, Tensor, Tensor] | None:
    """The clean data, the noise and the noisy data, the combination that leaves least."""
    found, least = None, _MAX_LEFT
    for x in draws.likes if given is None else [given]:
        for eps in (one for one in draws.normals if one.shape == x.shape):
            for z in (one.detach() for one in inputs if one.numel() == x.numel()):
                vectors = [one.flatten(1).double() for one in (x, eps, z.reshape(x.shape))]
                stacked = torch.stack(vectors, dim=1)
                left = _least_squares(stacked @ stacked.mT, [0, 1], 2)[1].nanmedian().item()
                if left < least:
                    found, least = (x, eps, z.reshape(x.shape).clone()), left
    return found


def _least_squares(
    gram: Float[Tensor, "n k k"], basis: list[int], of: int
) -> tuple[Float[Tensor, "n p"], Float[Tensor, " n"]]:
    """The coefficients of one vector in others, and the share of it that they leave."""
    products, right = gram[:, basis][:, :, basis], gram[:, basis, of]
    factors = torch.linalg.lstsq(products, right[:, :, None]).solution[:, :, 0]
    left = 1 - (factors * right).sum(1) / gram[:, of, of].clamp(min=1e-300)
    return factors, left.clamp(min=0)


def _samples(
    gram: Float[Tensor, "n 5 5"],
    batch: Float[Tensor, " n"],
    quantiles: Float[Tensor, "n draws"],
    data_scale: float | None,
    error: float,
) -> Samples:
    """The coefficients of all samples, from dot products of x, eps, z, the output and gradient,
    and the error of those of the target by rounding.

    Raises:
        ValueError: In one line, if the gradient is no combination of data, noise and output.
    """
    own = _least_squares(gram, [0, 1], 3)[1]
    kept = (own > _MIN_OWN) & gram.isfinite().flatten(1).all(1)
    gram, batch, quantiles = gram[kept], batch[kept], quantiles[kept]
    if len(gram) < _MIN_SAMPLES:
        raise ValueError(
            "The network's output is 0, or a combination of data and noise: record later steps."
        )
    scales, _ = _least_squares(gram, [0, 1], 2)
    parts, left = _least_squares(gram, [0, 1, 3], 4)
    if left.nanmedian() > _MAX_LEFT:
        raise ValueError(
            "The gradient is no combination of data, noise and the network's output: the loss is "
            "no squared error with one coefficient per sample."
        )
    alpha, sigma = scales.T
    sign = torch.where(sigma < 0, -1.0, 1.0)  # noise is as likely as its mirror image
    sigma, c = sigma.abs(), parts[:, 2] / 2
    a, b = (torch.where(c == 0, 0.0, -part / (2 * c)) for part in parts.T[:2])
    a, b = (
        torch.where(one.abs() < 5 * error * other.abs(), 0.0, one)
        for one, other in ((a, b), (b, a))
    )
    process = process_of(alpha, sigma, offset=0.0, rtol=0.0)
    if data_scale is not None:
        process = process._replace(scale=data_scale)
    logsnr = process.logsnr(alpha.abs(), sigma)
    return Samples(
        logsnr=logsnr,
        a=a / process.scale,
        b=b * sign,
        coefficient=c,
        eps_coefficient=c * (b * sign - a * sigma / alpha) ** 2,
        batch=batch,
        block=torch.floor(batch * NUM_BLOCKS / (batch.max() + 1)),
        process=process,
        data_offset=0.0,
        logsnr_error=error if error > _ROUNDING else 0.0,
        rounding=_ROUNDING * (1 / alpha.abs() + 1 / sigma),
        quantiles=quantiles,
        places=[None] * quantiles.shape[1],
        diagnostics=[],
    )
