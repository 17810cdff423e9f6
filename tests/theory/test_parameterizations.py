"""What a network predicts: one 2x2 system, against the papers' own formulas."""

import numpy as np
import pytest
import torch
from tables import PARAMETERIZATIONS, name_of

from elbos.theory import parameterizations
from elbos.theory.parameterizations import EDM, Eps, Flow, Parameterization, Score, V, X
from elbos.theory.process import align, alpha_sigma, diffuse

LOGSNR = torch.linspace(-20, 20, 81, dtype=torch.float64)


@pytest.fixture(params=PARAMETERIZATIONS, ids=repr)
def parameterization(request):
    return request.param


def test_every_parameterization_is_in_the_table():
    ours = {item for item in Parameterization.__subclasses__() if item.__module__ == V.__module__}
    assert {type(p) for p in PARAMETERIZATIONS} == ours


@pytest.mark.parametrize("span", [8.0, 20.0])
def test_split_inverts_target(parameterization, randn, span):
    """To 1e-8, even where an estimate amplifies rounding errors by e^10."""
    logsnr = torch.linspace(-span, span, 81, dtype=torch.float64)
    x, eps = randn(81, 5), randn(81, 5)
    y = parameterization.target(x, eps, logsnr)
    x_hat, eps_hat = parameterization.split(y, diffuse(x, eps, logsnr), logsnr)
    torch.testing.assert_close(x_hat, x, rtol=0, atol=1e-8)
    torch.testing.assert_close(eps_hat, eps, rtol=0, atol=1e-8)


def test_split_stays_consistent_with_z(parameterization, randn):
    """Whatever the network says, alpha x_hat + sigma eps_hat = z."""
    y, z = randn(81, 5), randn(81, 5)
    x_hat, eps_hat = parameterization.split(y, z, LOGSNR)
    torch.testing.assert_close(diffuse(x_hat, eps_hat, LOGSNR), z, rtol=1e-9, atol=1e-9)


def test_eps_loss_is_the_error_of_the_noise(parameterization, randn):
    x, eps, y_hat = randn(81, 2, 3), randn(81, 2, 3), randn(81, 2, 3)
    _, eps_hat = parameterization.split(y_hat, diffuse(x, eps, LOGSNR), LOGSNR)
    expected = 0.5 * (eps_hat - eps).square().mean((1, 2))
    y = parameterization.target(x, eps, LOGSNR)
    for actual in (
        parameterization.eps_loss(y_hat, y, LOGSNR),
        parameterization.eps_loss(-y_hat, -y, LOGSNR),
    ):
        torch.testing.assert_close(actual, expected, rtol=1e-6, atol=1e-15)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("shapes", [((4, 1), (4, 3), (4,)), ((4, 4), (4, 4), (4, 1))])
def test_a_loss_of_shapes_that_would_broadcast_is_refused(shapes):
    with pytest.raises(ValueError, match=r"\(4, 1\)"):
        V().eps_loss(*map(torch.ones, shapes))


def sigma2(logsnr):
    return 1 / (1 + np.exp(logsnr))


ERROR_RATIOS = [  # docs/theory.md section 2: ||y_hat - y||^2 / ||eps_hat - eps||^2
    (Eps(), np.ones_like),
    (X(), lambda logsnr: np.exp(-logsnr)),
    (Score(), lambda logsnr: 1 / sigma2(logsnr)),
    (V(), lambda logsnr: 1 + np.exp(-logsnr)),
    (Flow(), lambda logsnr: (1 + np.exp(-logsnr / 2)) ** 2),
    (EDM(), lambda logsnr: np.exp(-logsnr) / 0.25 + 1),
    (EDM(sigma_data=1.7), lambda logsnr: np.exp(-logsnr) / 1.7**2 + 1),
]


@pytest.mark.parametrize(("parameterization", "ratio"), ERROR_RATIOS, ids=name_of)
def test_error_ratio_is_theorys(parameterization, ratio):
    measured = parameterization.eps_error_per_error(LOGSNR).numpy()
    np.testing.assert_allclose(measured, 1 / ratio(LOGSNR.numpy()), rtol=1e-11)


TARGETS = [  # the target in words, from alpha, sigma, x, eps
    (Eps(), lambda alpha, sigma, x, eps: eps),
    (X(), lambda alpha, sigma, x, eps: x),
    (Score(), lambda alpha, sigma, x, eps: -eps / sigma),
    (V(), lambda alpha, sigma, x, eps: alpha * eps - sigma * x),
    (Flow(), lambda alpha, sigma, x, eps: eps - x),
]


@pytest.mark.parametrize(("parameterization", "target"), TARGETS, ids=name_of)
def test_target_is_the_published_one(parameterization, target, randn):
    x, eps = randn(81, 5), randn(81, 5)
    y = parameterization.target(x, eps, LOGSNR)
    scales = (align(s, x) for s in alpha_sigma(LOGSNR))
    torch.testing.assert_close(y, target(*scales, x, eps), rtol=1e-12, atol=0)


@pytest.mark.parametrize("sigma_data", [0.5, 1.0, 1.7])
def test_edm_is_karras_preconditioning(sigma_data, randn):
    """D = c_skip z~ + c_out F: the target makes it x, the split of any F makes it x_hat."""
    x, eps, f = randn(81, 5), randn(81, 5), randn(81, 5)
    z = diffuse(x, eps, LOGSNR)
    alpha = align(alpha_sigma(LOGSNR)[0], x)
    noise = align(torch.exp(-LOGSNR / 2), x)
    c_skip = sigma_data**2 / (noise**2 + sigma_data**2)
    c_out = noise * sigma_data / (sigma_data**2 + noise**2) ** 0.5
    edm = EDM(sigma_data=sigma_data)
    denoised = c_skip * z / alpha + c_out * edm.target(x, eps, LOGSNR)
    torch.testing.assert_close(denoised, x, rtol=0, atol=1e-8)
    x_hat, _ = edm.split(f, z, LOGSNR)
    torch.testing.assert_close(x_hat, c_skip * z / alpha + c_out * f, rtol=1e-9, atol=1e-9)


def test_edm_with_unit_data_is_minus_v(randn):
    x, eps = randn(81, 5), randn(81, 5)
    f = EDM(sigma_data=1.0).target(x, eps, LOGSNR)
    torch.testing.assert_close(f, -V().target(x, eps, LOGSNR), rtol=0, atol=1e-12)


def test_edm_target_has_unit_variance_on_gaussian_data(randn):
    """Which is what the preconditioning is for: x ~ N(0, .5^2), all noise levels, n = 200,000."""
    n = 200_000
    logsnr = torch.linspace(-20, 20, n, dtype=torch.float64)
    y = EDM(sigma_data=0.5).target(0.5 * randn(n, 1), randn(n, 1), logsnr)
    assert abs(y.square().mean() - 1) < 4 * (2 / n) ** 0.5


def test_a_batch_as_large_as_the_width_does_not_mix_its_noise_levels(parameterization, randn):
    x, eps, y, logsnr = randn(4, 3, 4, 4), randn(4, 3, 4, 4), randn(4, 3, 4, 4), randn(4)
    target, parts = parameterization.target(x, eps, logsnr), parameterization.split(y, x, logsnr)
    for i in range(4):
        item = slice(i, i + 1)
        assert torch.equal(target[item], parameterization.target(x[item], eps[item], logsnr[item]))
        alone = parameterization.split(y[item], x[item], logsnr[item])
        assert all(torch.equal(a[item], b) for a, b in zip(parts, alone, strict=True))


def test_float32_is_close_over_the_whole_range(parameterization):
    for value, reference in zip(
        (
            *parameterization.coefficients(LOGSNR.float()),
            parameterization.eps_error_per_error(LOGSNR.float()),
        ),
        (*parameterization.coefficients(LOGSNR), parameterization.eps_error_per_error(LOGSNR)),
        strict=True,
    ):
        assert value.dtype == torch.float32
        torch.testing.assert_close(value.double(), reference, rtol=1e-5, atol=0)


@pytest.mark.parametrize("sigma_data", [0.0, float("inf")])
def test_edm_of_no_data_or_of_unbounded_data_is_refused(sigma_data):
    """In the limit the target is eps up to its sign, but the coefficients are inf / inf."""
    with pytest.raises(ValueError, match=f"sigma_data is {sigma_data}"):
        parameterizations.EDM(sigma_data=sigma_data)
