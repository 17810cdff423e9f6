"""A loss is told from a published one that it is but for a slip; a published one is itself."""

import dataclasses
import re

import pytest
import torch
from audited import X, audited, kinds
from mistaken_losses import MISTAKES

from elbos import audit
from elbos.audit.names.matching import fit_formula
from elbos.audit.names.resemblance import COEFFICIENTS, EDITS
from elbos.audit.words import views
from elbos.base.numbers import NONE
from elbos.theory import parameterizations, schedules
from elbos.theory.recipes import RECIPES

LEVELS = torch.linspace(-8, 8, 161, dtype=torch.float64)
SHARES = torch.full((161,), 1 / 161, dtype=torch.float64).numpy()
PREDICTIONS = {"eps": parameterizations.Eps(), "x": parameterizations.X(),
               "v": parameterizations.V(), "flow": parameterizations.Flow(),
               "edm": parameterizations.EDM(sigma_data=0.5)}  # fmt: skip
OF_RECIPES = {"Min-SNR": "min-snr-5", "P2": "p2-1", "debiased estimation": "debiased",
              "EDM": "edm", "truncated SNR": "truncated-snr", "soft Min-SNR": "soft-min-snr-4",
              "the plain eps-loss": "iddpm", "the plain v-loss": "v-cosine",
              "the plain x-loss": "indi", "the plain flow loss": "flow"}  # fmt: skip


def slips(result):
    return [(item.part, item.change) for item in result.resembles if item.change]


def kinds_of_notes(result):
    return [note.kind for note in views([result])[0].notes]


WRONG = {  # of the mistaken losses, the part that resembles something published; None: an error
    "max_for_min": "coefficient",
    "one_plus_min_snr": "coefficient",
    "shifted_twice": "noise levels",
    "sqrt_twice": "process",
    "time_not_squared": "coefficient",
    "broadcast": None,
}


@pytest.mark.parametrize(("name", "part"), WRONG.items(), ids=WRONG)
def test_a_bug_is_told_before_the_verdict(name, part):
    result = audited(next(m.wrong for m in MISTAKES if m.name == name), 4000)
    notes = kinds_of_notes(result)
    if part is None:
        assert notes == ["error"] and result.verdict == "code error"
    else:
        assert [where for where, _ in slips(result)] == [part]
        assert notes[0] == "slip" and notes[1:] in (["yes"], ["no"], ["maybe"])
        (view,) = views([result])
        (slip,) = view.slips
        assert view.explanation.startswith("As written")
        assert view.explanation.endswith(f" {slip.change}?") and "DDPM" not in view.explanation
    assert result.recipe is None


def test_a_step_without_noise_is_one_of_the_table_and_no_other_target():
    def loss(network, x):
        t = torch.randint(0, 100, (len(x), 1)) / 100
        alpha, sigma, eps = (torch.pi / 2 * t).cos(), (torch.pi / 2 * t).sin(), torch.randn_like(x)
        return (network(alpha * x + sigma * eps, t) - (alpha * eps - sigma * x)).square().mean()

    result = audit.probe(loss, torch.rand(64, 32), num_samples=4000)
    assert (result.num_steps, result.diagnostics, result.recipe) == (100, [], "v-cosine")
    assert result.share_clean == pytest.approx(0.01, abs=0.005)
    assert result.time_name.startswith("steps 0 to 0.99 ")


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_is_itself_and_like_no_other(name):
    result, recipe = audit.from_recipe(name), RECIPES[name]
    assert slips(result) == []
    actual = RECIPES[result.recipe]
    assert (actual.weighting, actual.schedule) == (recipe.weighting, recipe.schedule)


@pytest.mark.parametrize("one", COEFFICIENTS, ids=lambda one: f"{one.name}, {one.prediction}")
def test_a_published_coefficient_is_its_recipes(one):
    """That of the recipe's weighting over its density, for this prediction type."""
    recipe = RECIPES[OF_RECIPES[one.name]]
    log_k = recipe.weighting(LEVELS).log() - recipe.schedule.log_density(LEVELS)
    log_c = log_k + PREDICTIONS[one.prediction].eps_error_per_error(LEVELS).log()
    formula = one.formula.replace("S", "4")
    d, g = fit_formula(formula, LEVELS.numpy(), log_c.numpy(), SHARES)
    assert d < 1e-3
    expected = {"Min-SNR": 5.0, "soft Min-SNR": 4.0} if "g" in formula else {}
    assert g == pytest.approx(expected.get(one.name, 1.0), rel=1e-2)


@pytest.mark.parametrize(("change", "pattern", "replacement"), EDITS, ids=lambda part: str(part))
def test_every_edit_changes_a_published_formula(change, pattern, replacement):
    edited = {(c.prediction, re.sub(pattern, replacement, c.formula)) for c in COEFFICIENTS}
    assert edited - {(c.prediction, c.formula) for c in COEFFICIENTS}


def published_lambda(sigma, sigma_data=0.5):
    return (sigma**2 + sigma_data**2) / (sigma * sigma_data) ** 2


def edm(weight, sigma_data=0.5, *, of="D"):
    """EDM's loss, with a weight of the squared error of the denoiser D, or of its network F."""

    def loss(network, x):
        sigma = (1.2 * torch.randn(len(x), 1, 1, 1) - 1.2).exp()
        z, total = x + sigma * torch.randn_like(x), sigma**2 + sigma_data**2
        c_skip, c_out = sigma_data**2 / total, sigma * sigma_data / total.sqrt()
        output = network(z / total.sqrt(), sigma.log().flatten() / 4)
        errors = {"D": c_skip * z + c_out * output - x, "F": output - (x - c_skip * z) / c_out}
        return (weight(sigma) * errors[of] ** 2).mean()

    return loss


def denoiser(network, x):
    """The network is D itself, and lambda is forgotten."""
    sigma = (1.2 * torch.randn(len(x), 1, 1, 1) - 1.2).exp()
    return (network(x + sigma * torch.randn_like(x), sigma.flatten()) - x).square().mean()


EDM_SLIPS = {
    "on_f": (edm(published_lambda, of="F"), "snr + 4"),
    "on_f_wider": (edm(lambda s: published_lambda(s, 2.0), 2.0, of="F"), "snr + 0.25"),
    "forgotten": (edm(torch.ones_like), "1/(snr + 4)"),
    "forgotten_on_d": (denoiser, "1"),
    "not_squared": (edm(lambda s: (s**2 + 0.25) / (s * 0.5)), "1/sqrt(snr)"),
}
PUBLISHED = {
    "soft Min-SNR": lambda sigma: (sigma * 0.5) ** 2 / (sigma**2 + 0.25) ** 2,  # k-diffusion
    "P2": lambda sigma: (1 + sigma**-2) ** -0.35 / (sigma**2 + 0.25),
}


@pytest.mark.parametrize("name", EDM_SLIPS)
def test_slips_of_edm_are_compared_with_edm(name):
    loss, formula = EDM_SLIPS[name]
    result = audit.probe(loss, X[:64], 2000)
    (slip,) = views([result])[0].slips
    assert (slip.part, slip.name, slip.formula) == ("coefficient", "EDM", formula)
    assert (result.recipe, result.nearest_recipe.name) == (None, "edm")
    assert result.nearest_recipe.has_levels and not result.nearest_recipe.has_coefficient


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_weights_of_the_loss_of_f_are_named(name):
    result = audit.probe(edm(PUBLISHED[name], of="F"), X[:64], 2000)
    assert [(item.name, item.change) for item in result.resembles] == [(name, "")]
    assert "DDPM" not in views([result])[0].explanation


@pytest.mark.parametrize("sigma_data", [0.3, 1.0])
def test_edm_for_data_of_another_scale_is_edm(sigma_data):
    """With 1, F is -v, which is no slip of v."""
    loss = edm(lambda sigma: published_lambda(sigma, sigma_data), sigma_data)
    result = audit.probe(loss, X[:64], 1000)
    target = (result.parameterization, result.parameterization_factor, result.sigma_data)
    assert target == ("edm", 1, sigma_data) and slips(result) == []
    nearest = result.nearest_recipe
    assert (nearest.name, nearest.sigma_data) == ("edm", 0.5)


OF_X = {  # weights of the squared error of x
    "soft Min-SNR": lambda snr: 6 * snr / (snr + 6),
    "truncated SNR": lambda snr: snr.clamp(min=1),
    "Min-SNR": lambda snr: snr.clamp(max=6),
    "P2": lambda snr: snr / (snr + 1) ** 0.7,
}


def declared(prediction, coefficient):
    y = PREDICTIONS[prediction]
    curves = {"title": "", "schedule": schedules.Laplace(), "parameterization": y}
    return audit.from_loss(audit.DeclaredLoss(**curves, coefficient=coefficient))


@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("name", OF_X)
def test_a_weight_of_x_is_named_for_every_prediction_type(name, prediction):
    y, x = PREDICTIONS[prediction], PREDICTIONS["x"]

    def coefficient(logsnr):
        per_error = y.eps_error_per_error(logsnr) / x.eps_error_per_error(logsnr)
        return OF_X[name](logsnr.exp()) * per_error

    result = declared(prediction, coefficient)
    named = [(item.name, item.change) for item in result.resembles if item.part == "coefficient"]
    assert named == [(name, "")] and "**1*" not in result.resembles[0].formula


@pytest.mark.parametrize("sign", [-1, 1])
def test_a_sigmoid_is_no_weight_of_another_prediction_type(sign):
    result = declared("edm", lambda logsnr: torch.sigmoid(sign * (logsnr + 1 + sign)))
    assert slips(result) == []


@pytest.mark.parametrize("slip", ["alphas", "roots", "exchanged"])
@pytest.mark.parametrize(
    ("recipe", "betas"),
    [
        ("ddpm", torch.linspace(1e-4, 0.02, 1000)),
        ("sd", torch.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2),
    ],
)
def test_mistaken_tables_are_compared_with_the_published_schedule(recipe, betas, slip):
    bar = (1 - betas).cumprod(0)
    signal, noise = {
        "alphas": ((1 - betas).sqrt(), betas.sqrt()),
        "roots": (bar, 1 - bar),
        "exchanged": ((1 - bar).sqrt(), bar.sqrt()),
    }[slip]

    def loss(network, x):
        t, eps = torch.randint(0, 1000, (len(x),)), torch.randn_like(x)
        alpha, sigma = (table[t].view(-1, 1, 1, 1) for table in (signal, noise))
        return (network(alpha * x + sigma * eps, t) - eps).square().mean()

    (actual,) = [r for r in audit.probe(loss, X[:64], 4000).resembles if r.change]
    assert (actual.part, actual.name.split()[-1]) == ("process", recipe)


@pytest.mark.parametrize("name", ["p2-1", "edm", "sd3", "flow-shift-5", "soft-min-snr-4"])
def test_the_nearest_recipe_is_of_the_same_kind(name):
    """A weight of a few percent more does not make another one nearest."""
    recipe = audit.from_recipe(name)
    tilt = torch.exp(0.02 * recipe.logsnr)
    curves = {"weight": recipe.weight * tilt, "coefficient": recipe.coefficient * tilt}
    tilted = dataclasses.replace(recipe, **curves)
    assert tilted.recipe is None and tilted.nearest_recipe.name == name


def test_a_loss_that_shares_nothing_with_a_recipe_is_near_none():
    """Conditional flow matching adds noise to the path and not to the target."""

    def loss(network, x):
        t, eps = torch.rand(len(x), 1, 1, 1), torch.randn_like(x)
        z = t * x + (1 - t) * eps + 0.1 * torch.randn_like(x)
        return (network(z, t.flatten()) - (x - eps)).square().mean()

    result = audit.probe(loss, X, 4000)
    assert result.is_judged and not result.nearest_recipe.is_alike
    assert result.parameterization is None and views([result])[0].facts["nearest recipe"] == NONE


def logit_normal(t):
    return torch.exp(-torch.logit(t).square() / 2) / (t * (1 - t))


def cosmap(t):
    return 1 / (1 - 2 * t + 2 * t**2)


def drawn(times, weight):
    """Flow matching at times drawn by a function of their number, with a weight of the time."""

    def loss(network, x):
        t, eps = times(len(x)).view(-1, 1, 1, 1), torch.randn_like(x)
        return (weight(t) * (network((1 - t) * x + t * eps, t) - (eps - x)) ** 2).mean()

    return loss


def shifted(num, shift=3):
    u = torch.rand(num)
    return shift * u / (1 + (shift - 1) * u)


def logit_normal_times(num):
    return torch.randn(num).sigmoid()


def p2_in_the_loss_of_d(sigma):
    return (1 + sigma**-2) ** -0.5


WRONG_WEIGHTS = {  # a loss, the part that is another's, and the audited formula
    "density_twice": (drawn(logit_normal_times, logit_normal), "coefficient", "p(t)"),
    "shift_twice": (drawn(shifted, lambda t: (3 - 2 * t) ** -2), "coefficient", "p(t)"),
    "cosmap_elsewhere": (drawn(logit_normal_times, cosmap), "noise levels", None),
    "sd3_on_v": (drawn(torch.rand, lambda t: t / (1 - t)), "coefficient", "1/sqrt(snr)"),
    "edm_density_twice": (
        edm(lambda s: published_lambda(s) * torch.exp(-((s.log() + 1.2) ** 2) / 2 / 1.2**2)),
        "coefficient",
        "p(ln sigma)",
    ),
    "p2_on_d": (edm(p2_in_the_loss_of_d), "coefficient", "1/(snr + 1)**0.5/(snr + 4)"),
}


@pytest.mark.parametrize("name", WRONG_WEIGHTS)
def test_a_weight_made_for_other_levels_or_another_error_is_named(name):
    loss, part, formula = WRONG_WEIGHTS[name]
    (slip,) = [slip for slip in audit.probe(loss, X, 4000).resembles if slip.change]
    assert slip.part == part
    assert formula is None or slip.formula == formula


@pytest.mark.parametrize(
    ("times", "weight", "formula"),
    [
        (logit_normal_times, lambda t: 1 / logit_normal(t), "1/p(t)"),
        (torch.rand, lambda t: t * (1 - t), ""),  # the density of log-SNR, a choice of its own
        (torch.rand, cosmap, ""),
        (logit_normal_times, torch.ones_like, ""),
    ],
)
def test_a_weight_that_is_chosen_is_no_mistake(times, weight, formula):
    result = audit.probe(drawn(times, weight), X, 4000)
    assert slips(result) == []
    assert "".join(item.formula for item in result.resembles) == formula


def toward(time, sign=1):
    """Flow matching with the target x - eps, or its negative, for a network given some time."""

    def loss(network, x):
        t, eps = torch.rand(len(x), 1, 1, 1), torch.randn_like(x)
        return (
            (network((1 - t) * x + t * eps, time(t.flatten())) - sign * (x - eps)).square().mean()
        )

    return loss


@pytest.mark.parametrize(
    ("time", "sign", "kind"),
    [(lambda t: 1 - t, 1, "published"), (lambda t: 1000 * t, -1, "slip")],
    ids=["noise to data", "data to noise"],
)
def test_the_sign_of_a_flow_is_that_of_its_time(time, sign, kind):
    result = audit.probe(toward(time), X[:64], 500)
    assert (result.parameterization_factor, result.time_sign) == (-1, sign)
    assert slips(result) == [("target", "the other sign")]
    assert kinds_of_notes(result) == [kind, *(["published"] if sign > 0 else []), "yes"]


@pytest.mark.parametrize(
    ("time", "is_mirrored"),
    [
        (lambda t: 1 - t, True),
        (lambda t: 1000 * (1 - t), True),
        (lambda t: (1 - t) / (3 - 2 * t), True),  # a shifted time
        (lambda t: 999 * t, False),
        (lambda t: 2 * torch.log((1 - t) / t), False),  # log-SNR is no time
    ],
)
def test_a_target_from_data_to_noise_in_a_time_from_noise_to_data_is_told(time, is_mirrored):
    """A sampler that follows the network's output in its time would run backwards."""
    result = audit.probe(toward(time, -1), X[:64], 500)
    assert slips(result) == [("target", "the other sign")] * is_mirrored
    assert kinds_of_notes(result)[0] == ("slip" if is_mirrored else "published")


def of_subvp(network, x):
    """The sub-VP SDE: sigma = 1 - alpha**2."""
    t, eps = torch.rand(len(x), 1, 1, 1), torch.randn_like(x)
    alpha = torch.exp(-0.025 - 5 * t**2)
    return (network(alpha * x + (1 - alpha**2) * eps, t) - eps).square().mean()


def of_the_noisiest(network, x):
    """The denoiser's error on a geometric grid of variances, weighted by the variance."""
    sigma = 0.01 * 5000 ** torch.rand(len(x), 1, 1, 1)
    error = network(x + sigma * torch.randn_like(x), sigma.flatten()) - x
    return (sigma**2 * error.square()).mean()


def of_two_uniforms(network, x):
    """The later of two uniform times, Beta(2, 1)."""
    t, eps = torch.rand(2, len(x), 1, 1, 1).amax(0), torch.randn_like(x)
    return (network((1 - t) * x + t * eps, t) - (eps - x)).square().mean()


def of_drawn_steps(network, x):
    """DDPM's loss, its steps drawn by the variance of their noise and divided by that."""
    variance = 1 - torch.linspace(1e-4, 0.02, 1000).neg().log1p().cumsum(0).exp()
    step, eps = torch.multinomial(variance, len(x), replacement=True), torch.randn_like(x)
    v = variance[step, None, None, None]
    error = network((1 - v).sqrt() * x + v.sqrt() * eps, step) - eps
    return (error.square() / v).mean()


def of_edm_clamped(network, x):
    """EDM's weight lambda(sigma), of at most 100."""
    sigma = torch.exp(1.4 * torch.randn(len(x), 1, 1, 1) - 1)
    z, total = x + sigma * torch.randn_like(x), sigma**2 + 0.25
    f = network(z / total.sqrt(), sigma.flatten().log() / 4)
    denoised = 0.25 / total * z + 0.5 * sigma / total.sqrt() * f
    weight = (total / (0.5 * sigma) ** 2).clamp(max=100)
    return (weight * (denoised - x).square()).mean()


def of_an_interpolant(network, x):
    """The velocity of a path whose alpha is 1 - sigma**2."""
    t, eps = torch.rand(len(x), 1, 1, 1), torch.randn_like(x)
    return (network((1 - t**2) * x + t * eps, t) - (eps - 2 * t * x)).square().mean()


CHOICES = [
    *(of_subvp, of_the_noisiest, of_two_uniforms),
    *(of_drawn_steps, of_edm_clamped, of_an_interpolant),
]


@pytest.mark.parametrize("loss", CHOICES)
def test_a_choice_is_no_slip(loss):
    assert slips(audit.probe(loss, X[:64], 2000)) == []


def test_a_rising_weighting_is_no_unweighted_integral():
    """DDPM's variational bound, whose first steps are long."""
    betas = torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)
    products = (1 - betas).cumprod(0)
    weights = betas / (1 - betas) / (1 - products.roll(1))

    def loss(network, x):
        step, eps = torch.randint(1, 1000, (len(x),)), torch.randn_like(x)
        alpha, sigma = (
            v[step, None, None, None].float() for v in (products**0.5, (1 - products) ** 0.5)
        )
        error = network(alpha * x + sigma * eps, step) - eps
        return (weights[step].float() * error.square().mean((1, 2, 3))).mean()

    result = audit.probe(loss, X[:256], 20_000)
    assert (result.verdict, result.resembles) == ("not monotone", [])


def test_a_fatal_finding_leaves_nothing_to_be_compared():
    coupled = audit.diagnostics.Coupled(share=0.5)
    result = dataclasses.replace(audit.from_recipe("flow"), diagnostics=[coupled])
    assert result.resembles == [] and result.recipe is None


def test_the_velocity_of_the_cosine_path_is_v_times_a_factor():
    def loss(network, x):
        t = torch.rand(len(x), 1, 1, 1)  # from noise to data
        alpha, sigma = torch.sin(torch.pi / 2 * t), torch.cos(torch.pi / 2 * t)
        eps = torch.randn_like(x)
        velocity = torch.pi / 2 * (sigma * x - alpha * eps)
        return (network(alpha * x + sigma * eps, t) - velocity).square().mean()

    result = audit.probe(loss, X[:64], 1000)
    assert (result.parameterization, result.parameterization_factor) == ("v", -1.57)
    assert kinds(result) == ["scaled-target"]
    assert kinds_of_notes(result) == ["published", "yes"]
