"""A schedule is named where its parameters are those of the loss, of tables step by step."""

import pytest
import torch
from audited import X, cosine_v
from torch import linspace

from elbos import audit


def of_betas(betas):
    alpha_bar = torch.cumprod(1 - betas.double(), 0)

    def loss(network, x):
        t = torch.randint(0, len(alpha_bar), (len(x),))
        squared, eps = alpha_bar[t].float().view(-1, 1, 1, 1), torch.randn_like(x)
        z = squared.sqrt() * x + (1 - squared).sqrt() * eps
        return (network(z, t) - eps).square().mean()

    return loss


def of_times(times):
    def loss(network, x):
        t, eps = times(len(x)).view(-1, 1, 1, 1), torch.randn_like(x)
        return (network((1 - t) * x + t * eps, t.flatten()) - (eps - x)).square().mean()

    return loss


def table(times):
    return lambda num: times[torch.randint(0, len(times), (num,))]


def shifted(t, shift):
    return shift * t / (1 + (shift - 1) * t)


def elucidated(mean):
    def loss(network, x):
        sigma = (mean + 1.2 * torch.randn(len(x), 1, 1, 1)).exp()
        weight = (sigma**2 + 0.25) / (0.5 * sigma) ** 2
        z = x + sigma * torch.randn_like(x)
        return (weight * (network(z, sigma.flatten()) - x).square()).mean()

    return loss


EVEN = linspace(0, 1, 1001)[1:]
CASES = {  # the loss, its noise levels, and the recipe that it equals
    "DDPM": (of_betas(linspace(1e-4, 0.02, 1000)), "DDPM()", "ddpm"),
    "half of beta_start": (of_betas(linspace(5e-5, 0.02, 1000)), "DDPM(beta_min=0.05)", None),
    "other betas": (
        of_betas(linspace(7e-4, 0.012, 1000)), "DDPM(beta_min=0.7, beta_max=12.0)", None),
    "980 steps": (
        of_betas(linspace(1e-4, 0.02, 1000)[:980]), "DDPM(beta_min=0.098, beta_max=19.21)", None),
    "SD": (of_betas(linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2), "StableDiffusion()", "sd"),
    "other roots": (
        of_betas(linspace(0.03, 0.12, 500) ** 2),
        "StableDiffusion(beta_min=0.45, beta_max=7.2)", None),
    "flow in steps": (of_times(table(EVEN)), "Flow()", "flow"),
    "shift 3 in steps": (of_times(table(shifted(EVEN, 3))), "Flow(shift=3.0)", "flow-shift-3"),
    "shift 3.02 in steps": (of_times(table(shifted(EVEN, 3.02))), "Flow(shift=3.02)", None),
    "shift 3.1": (of_times(lambda num: shifted(torch.rand(num), 3.1)), "Flow(shift=3.1)", None),
    "EDM": (elucidated(-1.2), "Normal()", "edm"),
    "EDM's mean rounded": (elucidated(-1.17), "Normal(mean=2.34)", None),
    "cosine": (cosine_v, "Cosine()", "v-cosine"),
    "ten steps": (of_times(table(linspace(0.1, 0.9, 10) ** 2)), None, None),
    "even steps": (of_times(table(linspace(0.05, 0.95, 10))), "Flow()", None),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_a_recipe_is_equal_where_its_parameters_are(name):
    loss, schedule, recipe = CASES[name]
    result = audit.probe(loss, X)
    assert (result.schedule, result.recipe) == (schedule, recipe)


@pytest.mark.parametrize(("ends", "name"), [((1e-4, 0.02), "ddpm"), ((0.00085, 0.012), "sd")])
def test_betas_of_a_thousand_steps_in_a_shorter_table_are_named(ends, name):
    low, high = ends
    betas = linspace(low, high, 100)
    if name == "sd":
        betas = linspace(low**0.5, high**0.5, 100) ** 2
    result = audit.probe(of_betas(betas), X)
    assert [(like.part, like.name) for like in result.resembles if like.change] == [
        ("noise levels", name)
    ]
