"""The names that users import: to remove or rename one is a decision, made here too."""

import importlib
import sys

import pytest

NAMES = {
    "elbos": """Denoiser LossByLevel Objective Run ValidationHistory Validator adapters adaptive
        analysis audit compare fit floor likelihood networks oracles parameterizations process
        recipes samplers schedules testing tracking validation weightings""",
    "elbos.adapters.caches": "load validate",
    "elbos.adapters.diffusers": "denoiser load load_vae log_validation",
    "elbos.adapters.edm": "denoiser",
    "elbos.adapters.flow": "denoiser",
    "elbos.adapters.trainers": "Settings TRAINERS read_settings",
    "elbos.adaptive": "Adaptive",
    "elbos.analysis": "Mixture elbo_mixture is_monotone noisy_elbo_losses rising_intervals "
    "theorem_sides",
    "elbos.audit": "Audit DeclaredLoss Recording from_loss from_recipe from_table probe record",
    "elbos.denoiser": "Denoiser Guided",
    "elbos.evaluation": "Evaluation EvaluationConfig OdeConfig evaluate",
    "elbos.export": "export",
    "elbos.floor": "FiniteSet Floor GaussianMixture finite_set_floor floor_losses mixture_floor",
    "elbos.likelihood": "FlowLikelihood decoder_loss eps_loss flow_likelihood prior_loss",
    "elbos.networks": "ADM ADMConfig MLP MLPConfig UNet UNetConfig UViT UViTConfig ViT ViTConfig",
    "elbos.objective": "Objective",
    "elbos.oracles": "FiniteSet GaussianMixture",
    "elbos.parameterizations": "EDM Eps Flow Score V X",
    "elbos.process": "align alpha_sigma diffuse posterior",
    "elbos.recipes": "FAMILIES RECIPES Recipe",
    "elbos.samplers": "Ancestral DDIM DPMSolver DPMSolver3 Heun StochasticDPMSolver UniPC grid",
    "elbos.schedules": """Beta Cosine DDPM EDMSampling Flow FlowTimes Laplace Linear Mixture Mode
        Normal StableDiffusion UShape ZeroTerminal low_discrepancy_times""",
    "elbos.tabulated": "Tabulated",
    "elbos.testing": "assert_weighting",
    "elbos.tracking": "log scalars",
    "elbos.training.data": "Digits Fashion Folder Hub Latents Packed Tar Toy to_unit",
    "elbos.validation": "LossByLevel ValidationHistory Validator",
    "elbos.weightings": """BellFlow BetaFlow CosMap DDPM EDM EDM2 ELBO Exponential IDDPM InDI JiT
        Laplace LogitNormalFlow MinSNR ModeFlow Monotone NormalMixtureFlow P2 Shifted ShiftedFlow
        Sigmoid SoftMinSNR StableDiffusion StableDiffusionDebiased StableDiffusionMinSNR
        StableDiffusionV TruncatedSNR UShapeFlow Weighting ZeroTerminalV""",
}


@pytest.mark.parametrize("module", NAMES)
def test_public_names_can_be_imported(module):
    names = NAMES[module].split()
    assert not [name for name in names if not hasattr(importlib.import_module(module), name)]


def test_both_paths_of_a_module_import_one_object():
    from elbos.weightings.flow import InDI

    assert InDI is importlib.import_module("elbos.theory.weightings").InDI
    assert sys.modules["elbos.weightings.flow"] is sys.modules["elbos.theory.weightings.flow"]


def test_a_misspelt_path_is_missing():
    with pytest.raises(ModuleNotFoundError, match=r"elbos\.weigthings"):
        importlib.import_module("elbos.weigthings")
