"""The names that users import: to remove or rename one is a decision, made here too."""

import pkgutil

import pytest

import elbos

NAMES = {
    "elbos": """Denoiser LossByLevel Objective Run ValidationHistory Validator adapters adaptive
        analysis audit compare fit likelihood networks oracles parameterizations process
        recipes samplers schedules testing validation weightings""",
    "elbos.adapters.diffusers": "denoiser load log_validation",
    "elbos.adapters.edm": "denoiser",
    "elbos.adapters.flow": "denoiser",
    "elbos.adaptive": "Adaptive",
    "elbos.analysis": "Mixture elbo_mixture is_monotone noisy_elbo_losses rising_intervals "
    "theorem_sides",
    "elbos.audit": "Audit DeclaredLoss Recording from_loss from_recipe from_table probe record",
    "elbos.theory.denoiser": "Denoiser Guided",
    "elbos.evaluation": "Evaluation EvaluationConfig OdeConfig evaluate",
    "elbos.likelihood": "FlowLikelihood decoder_loss eps_loss flow_likelihood prior_loss",
    "elbos.networks": "ADM ADMConfig MLP MLPConfig UNet UNetConfig UViT UViTConfig ViT ViTConfig",
    "elbos.theory.objective": "Objective",
    "elbos.oracles": "FiniteSet GaussianMixture",
    "elbos.parameterizations": "EDM Eps Flow Score V X",
    "elbos.process": "align alpha_sigma diffuse posterior",
    "elbos.recipes": "FAMILIES RECIPES Recipe",
    "elbos.samplers": "Ancestral DDIM DPMSolver Heun StochasticDPMSolver grid",
    "elbos.schedules": """Beta Cosine DDPM EDMSampling Flow FlowTimes Laplace Linear Mixture Mode
        Normal StableDiffusion UShape ZeroTerminal low_discrepancy_times""",
    "elbos.testing": "assert_weighting",
    "elbos.training.data": "Digits Fashion Images Packed Toy to_unit",
    "elbos.validation": "LossByLevel ValidationHistory Validator",
    "elbos.weightings": """EDM ELBO Exponential IDDPM Implied MinSNR Monotone P2 Shifted Sigmoid
        Tabulated Weighting""",
}


@pytest.mark.parametrize("module", NAMES)
def test_public_names_can_be_imported(module):
    names = NAMES[module].split()
    assert not [name for name in names if not hasattr(pkgutil.resolve_name(module), name)]


def test_every_name_of_the_package_is_listed():
    assert {"__version__", *NAMES["elbos"].split()} == set(elbos.__all__)
