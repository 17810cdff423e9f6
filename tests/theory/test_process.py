"""The Gaussian process: exact at both ends, and consistent with Bayes' rule."""

import math

import numpy as np
import pytest
import torch
from scipy.special import expit

from elbos.theory.process import align, alpha_sigma, diffuse, posterior

LOGSNR = torch.linspace(-40, 40, 161, dtype=torch.float64)


def test_scales_are_square_roots_of_sigmoids():
    alpha, sigma = alpha_sigma(LOGSNR)
    np.testing.assert_allclose(alpha, np.sqrt(expit(LOGSNR.numpy())), rtol=1e-14)
    np.testing.assert_allclose(sigma, np.sqrt(expit(-LOGSNR.numpy())), rtol=1e-14)


def test_float32_keeps_its_digits_at_both_ends():
    single, double = alpha_sigma(LOGSNR.float()), alpha_sigma(LOGSNR)
    for value, reference in zip(single, double, strict=True):
        assert value.dtype == torch.float32
        torch.testing.assert_close(value.double(), reference, rtol=3e-6, atol=0)


def test_infinite_logsnr_is_clean_data(randn):
    x, eps = randn(5, 2), randn(5, 2)
    assert torch.equal(diffuse(x, eps, torch.tensor([math.inf], dtype=torch.float64)), x)


def test_other_processes_are_this_one_in_another_scale(randn):
    x, eps = randn(161, 3), randn(161, 3)
    z = diffuse(x, eps, LOGSNR)
    alpha = align(alpha_sigma(LOGSNR)[0], z)
    sigma_tilde = align(torch.exp(-LOGSNR / 2), z)
    torch.testing.assert_close(z / alpha, x + sigma_tilde * eps, rtol=1e-9, atol=0)
    t = align(torch.sigmoid(-LOGSNR / 2), z)  # rectified flow: (1 - t) x + t eps
    flow_alpha = align(torch.sigmoid(LOGSNR / 2), z)
    flow = flow_alpha * x + t * eps
    torch.testing.assert_close(z * (flow_alpha / alpha), flow, rtol=1e-8, atol=1e-12)


def test_a_batch_as_large_as_the_width_does_not_mix_its_noise_levels(randn):
    x, eps, logsnr = randn(4, 3, 4, 4), randn(4, 3, 4, 4), randn(4)
    z = diffuse(x, eps, logsnr)
    mean, variance = posterior(x, z, logsnr, logsnr + 1)
    for i in range(4):
        item = slice(i, i + 1)
        assert torch.equal(z[item], diffuse(x[item], eps[item], logsnr[item]))
        mean_i, variance_i = posterior(x[item], z[item], logsnr[item], logsnr[item] + 1)
        assert torch.equal(mean[item], mean_i)
        assert torch.equal(variance[item], variance_i)


@pytest.mark.parametrize("steps", [(-6.0, -5.0), (-1.0, 2.0), (3.0, 9.0)], ids=str)
def test_posterior_is_bayes_rule(steps):
    """Condition the joint Gaussian of (z_s, z_t) given x on z_t."""
    x, z_t = 0.7, -1.1
    (a_t, a_s), (v_t, v_s) = np.sqrt(expit(np.array(steps))), expit(-np.array(steps))
    covariance = a_t / a_s * v_s  # z_t = (a_t / a_s) z_s + independent noise
    expected_mean = a_s * x + covariance / v_t * (z_t - a_t * x)
    expected_variance = v_s - covariance**2 / v_t
    levels = [torch.tensor([level], dtype=torch.float64) for level in steps]
    data = [torch.tensor([[value]], dtype=torch.float64) for value in (x, z_t)]
    mean, variance = posterior(*data, *levels)
    assert mean.item() == pytest.approx(expected_mean, rel=1e-10)
    assert variance.item() == pytest.approx(expected_variance, rel=1e-10)


def test_posterior_at_infinity_is_a_point_mass_at_x(randn):
    x, z = randn(3, 2), randn(3, 2)
    ends = torch.zeros(1, dtype=torch.float64), torch.full((1,), math.inf, dtype=torch.float64)
    mean, variance = posterior(x, z, *ends)
    assert torch.equal(mean, x)
    assert not variance.any()
