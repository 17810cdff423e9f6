r"""A network and what it predicts, together: noisy data in, $(\hat x, \hat\epsilon)$ out.

Samplers and likelihoods know only this interface. Anything with the same call can stand in: the
exact denoisers of `oracles`, another project's network behind an adapter, or a wrapper such as
`Guided`.
"""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from elbos.base.checks import Typed, require_floating, require_positive
from elbos.base.conditions import Condition, is_alike, map_tensors, require_tensors
from elbos.theory.parameterizations import Parameterization
from elbos.theory.process import align

_Called = TypeVar("_Called", bound=Callable[..., Any])
Network = Callable[[Tensor, Tensor, Condition], Tensor]
"""`network(z, logsnr, cond)`, with log-SNR `[b]` and any condition that it understands, or None."""


class Denoise(Protocol):
    """Interface of functions that estimate data and noise from noisy data.

    They also take log-SNR and condition.
    """

    def __call__(
        self, z: Tensor, logsnr: Tensor, cond: Condition = None
    ) -> tuple[Tensor, Tensor]: ...


def with_three_arguments(network: _Called) -> _Called:
    """Wrap a network so that it accepts `(z, logsnr, cond)`.

    Only networks that take `(z, logsnr)` are wrapped, and not in compiled code; others are returned
    unchanged.
    """
    if _takes(network, 3) or not _takes(network, 2):
        return network

    def unconditional(z: Tensor, logsnr: Tensor, cond: Condition) -> Any:
        if cond is not None:
            raise ValueError(
                "the network takes (z, logsnr) and no condition, but the data come with conditions."
            )
        return network(z, logsnr)

    return unconditional  # type: ignore[return-value]


def _takes(network: Callable[..., Any], num: int) -> bool:
    if torch.compiler.is_compiling():  # signatures do not compile: networks then take all three
        return True
    try:
        signature(network).bind(*[None] * num)
    except (TypeError, ValueError):  # ValueError: it has no signature
        return False
    return True


def unwrapped(network: Callable[..., Any]) -> Callable[..., Any]:
    """Return a network without wrappers that pass on all arguments.

    So `torch.compile`, data parallelism and averages of weights wrap a network.
    """
    inner = getattr(network, "_orig_mod", None) or getattr(network, "module", None)
    if not (isinstance(network, nn.Module) and isinstance(inner, nn.Module)):
        return network
    parameters = inspect.signature(network.forward).parameters.values()
    passes_all = any(parameter.kind is parameter.VAR_POSITIONAL for parameter in parameters)
    return unwrapped(inner) if passes_all else network


def signature(network: Callable[..., Any]) -> inspect.Signature:
    bound = network if isinstance(network, partial) else partial(network)
    inner = unwrapped(bound.func)
    call = inner.forward if isinstance(inner, nn.Module) else inner
    return inspect.signature(partial(call, *bound.args, **bound.keywords))


def network_output(
    network: Network,
    z: Float[Tensor, "b *d"],
    logsnr: Float[Tensor, " b"],
    cond: Condition = None,
) -> Float[Tensor, "b *d"]:
    """Call a network of three arguments and return the output after checking it.

    A ValueError is raised unless it is one real tensor of the shape of `z`.
    """
    y_hat = network(z, logsnr, cond)
    if not isinstance(y_hat, Tensor) or y_hat.shape != z.shape or y_hat.is_complex():
        what = type(y_hat).__name__
        if isinstance(y_hat, Tensor):
            what = f"{y_hat.dtype} of shape {tuple(y_hat.shape)}"
        raise ValueError(
            f"the network returned {what} for data of shape {tuple(z.shape)}: it has to return one "
            "real tensor of that shape, as lambda z, logsnr, cond: unet(z, ...).sample does."
        )
    return y_hat


def estimate(
    denoiser: Denoise, z: Float[Tensor, "b *d"], logsnr: Float[Tensor, "#b"], cond: Condition
) -> tuple[Float[Tensor, "b *d"], Float[Tensor, "b *d"]]:
    r"""Call a denoiser and return the estimates $(\hat x, \hat\epsilon)$.

    A ValueError is raised unless both have the shape of `z`. A bare network, which returns one
    tensor, would be unpacked along its batch in silence.
    """
    try:
        pair = denoiser(z, logsnr, cond)
    except TypeError:
        if (unconditional := with_three_arguments(denoiser)) is denoiser:
            raise
        pair = unconditional(z, logsnr, cond)
    shapes = [getattr(part, "shape", None) for part in pair] if isinstance(pair, tuple) else []
    if shapes != [z.shape, z.shape]:
        raise ValueError(
            f"the denoiser returned a {type(pair).__name__} at data of shape {tuple(z.shape)}: it "
            "has to return (x_hat, eps_hat), both of that shape, as denoiser.Denoiser(network, "
            "parameterization) does."
        )
    return pair


@dataclass(frozen=True)
class Denoiser(Typed):
    r"""Denoiser that consists of a network and its parameterization.

    Args:
        network: A module or function, called as `network(z, logsnr, cond)`, or
            `network(z, logsnr)` if it takes no condition; it returns $y$.
        parameterization: The prediction type of $y$.
    """

    network: Network
    parameterization: Parameterization

    def __call__(
        self, z: Float[Tensor, "b *d"], logsnr: Float[Tensor, "#b"], cond: Condition = None
    ) -> tuple[Float[Tensor, "b *d"], Float[Tensor, "b *d"]]:
        return self.parameterization.split(self.output(z, logsnr, cond), z, logsnr)

    def output(
        self, z: Float[Tensor, "b *d"], logsnr: Float[Tensor, "#b"], cond: Condition = None
    ) -> Float[Tensor, "b *d"]:
        """Return the raw network output $y$ in the dtype of `z`.

        Errors as when called.
        """
        require_floating(z=z, logsnr=logsnr)
        copied = z.clone()  # the network may change it in place
        levels = logsnr.expand(len(z)).to(z)  # [b], as in training
        network = with_three_arguments(self.network)
        return network_output(network, copied, levels, cond).to(z.dtype)


@dataclass(frozen=True, kw_only=True)
class Clipping:
    r"""Clipping of the estimate $\hat x$ to the data range during sampling.

    Without clipping, an error of $\hat\epsilon$ at a high noise level becomes an error of $\hat x$
    that is $\sigma/\alpha$ times as large. All other uses, such as likelihoods, take the unclipped
    estimates.

    Attributes:
        limit: $\hat x$ is clamped to [-limit, limit].
        quantile: Imagen's dynamic thresholding instead: $\hat x$ of a sample is clamped to this
            quantile of its absolute values, taken from 1 to `limit`, and divided by it.

    References:
        Saharia et al. (2022), https://arxiv.org/abs/2205.11487
    """

    limit: float
    quantile: float | None = None

    def __post_init__(self) -> None:
        require_positive(limit=self.limit)

    def __call__(self, x_hat: Float[Tensor, "b *d"]) -> Float[Tensor, "b *d"]:
        if self.quantile is None:
            return x_hat.clamp(-self.limit, self.limit)
        reach = x_hat.abs().flatten(1).quantile(self.quantile, dim=1).clamp(1, self.limit)
        reach = align(reach, x_hat)
        return x_hat.clamp(-reach, reach) / reach


def clipping_of(denoiser: object) -> Clipping | None:
    """Return the clipping settings of a denoiser.

    Of a wrapper they are those of the denoiser inside; None without clipping.
    """
    while denoiser is not None:
        if isinstance(clipping := getattr(denoiser, "clipping", None), Clipping):
            return clipping
        denoiser = getattr(denoiser, "denoiser", None)
    return None


@dataclass(frozen=True)
class Guided(Typed):
    r"""Classifier-free guidance within an interval of noise levels.

    $$\hat\epsilon = \hat\epsilon(z) + s\,\bigl(\hat\epsilon(z, c) - \hat\epsilon(z)\bigr), \qquad
      \lambda \in [\lambda_-, \lambda_+],$$

    and the plain conditional estimate outside the interval. Both estimates come from one call of
    twice the batch.

    Args:
        denoiser: A conditional denoiser.
        scale: $s$; 1 is no guidance, and costs nothing extra.
        logsnr_min: $\lambda_-$. Default: guide from the start.
        logsnr_max: $\lambda_+$. Default: to the end. Leaving out both ends keeps diversity and
            saves evaluations.
        null_cond: The null (unconditional) condition, in the form of `cond`, for one sample or for
            each of the batch. Default: class label -1, which this library's networks treat as no
            label.

    Raises:
        ValueError: When called, if the condition is not class labels and `null_cond` is not given
            or differs from it in more than the numbers of its tensors.

    References:
        Ho & Salimans (2022), https://arxiv.org/abs/2207.12598; interval: Kynkäänniemi et al.
        (2024), https://arxiv.org/abs/2404.07724
    """

    denoiser: Denoise
    scale: float
    logsnr_min: float = -float("inf")
    logsnr_max: float = float("inf")
    null_cond: Condition = None

    def __call__(
        self, z: Float[Tensor, "b *d"], logsnr: Float[Tensor, "#b"], cond: Condition = None
    ) -> tuple[Float[Tensor, "b *d"], Float[Tensor, "b *d"]]:
        is_guided = (logsnr >= self.logsnr_min) & (logsnr <= self.logsnr_max)
        if cond is None or self.scale == 1 or not is_guided.any():
            return estimate(self.denoiser, z, logsnr, cond)
        if self.null_cond is not None:
            null = map_tensors(lambda part: part.expand(len(z), *part.shape[1:]), self.null_cond)
        elif isinstance(cond, Tensor) and not cond.is_floating_point():
            null = torch.full_like(cond, -1, dtype=torch.int64)  # bool and uint8 have no -1
        else:
            raise ValueError(
                f"cond is a {type(cond).__name__}, not class labels: give the null (unconditional) "
                "condition as null_cond."
            )
        require_tensors(cond)
        if not is_alike(cond, null):
            raise ValueError(
                f"null_cond, a {type(null).__name__}, does not fit cond, a {type(cond).__name__}: "
                "give tensors of its shapes, or a dict of them and of values equal to its own."
            )
        both = map_tensors(lambda *parts: torch.cat(parts), cond, null)
        x_hat, eps_hat = estimate(
            self.denoiser, z.repeat(2, *(1,) * (z.ndim - 1)), logsnr.expand(len(z)).repeat(2), both
        )
        scale = align(1 + (float(self.scale) - 1) * is_guided.to(z.dtype), z)
        (x_cond, x_none), (eps_cond, eps_none) = x_hat.chunk(2), eps_hat.chunk(2)
        return x_none + scale * (x_cond - x_none), eps_none + scale * (eps_cond - eps_none)
