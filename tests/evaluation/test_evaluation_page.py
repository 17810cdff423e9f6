"""The page and the tables of an evaluation, of numbers made up: they show them all."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from browsing import HOSTILE, opened, words
from torch.nn.functional import softplus

from elbos.base.tables import Table
from elbos.evaluation.metrics import FRECHET_DISTANCE, KERNEL_DISTANCE, Value
from elbos.evaluation.report import curves_figure, page, runs_table, terminal
from elbos.evaluation.result import (
    Curve,
    Evaluation,
    Likelihood,
    OdeLikelihood,
    Protocol,
    SampleQuality,
    SamplingProtocol,
    TheoremCheck,
)

COMMAND = "elbos evaluate runs/fashion --quality"
WEIGHTINGS = ("ELBO", "sigmoid(2)", "EDM", "EDM-monotonic", "Min-SNR(5)")
HOW = SamplingProtocol(
    extractor="EfficientNet-Lite0",
    reference="train+val",
    num_reference=60_000,
    num_features=1280,
    sampler="DPMSolver()",
    grid="EDMSampling(logsnr_min=-10.0)",
    num_steps=32,
    num_evaluations=32,
    guidance=1.0,
    num_samples=10_000,
    seed=0,
)


def curves(scale):
    """The best losses possible on normal data of this scale, and their integral, in closed form."""
    logsnr = torch.linspace(-10, 10, 65, dtype=torch.float64)
    at = logsnr + 2 * np.log(scale)
    loss, elbo = 0.5 * at.sigmoid(), 0.5 * (softplus(at) - softplus(at[0])) + 0.002
    return [
        Curve(
            logsnr=tuple(logsnr.tolist()),
            nats_per_dim=tuple(values.tolist()),
            standard_error=tuple((0.03 * values + 1e-4).tolist()),
            measurement_error=tuple((0.01 * values).tolist()),
        )
        for values in (loss, elbo)
    ]


def likelihood(bits, scale, z):
    curve, elbo = curves(scale)
    checks = [
        TheoremCheck(
            name=name,
            is_monotone=name not in ("EDM", "Min-SNR(5)"),
            loss=1.25 + 0.02 * item,
            mixture=1.25,
            difference_se=0.02,
            z=item,
        )
        for name, item in zip(WEIGHTINGS, z, strict=True)
    ]
    ode = OdeLikelihood(
        bits_per_dim=bits - 0.04,
        standard_error=0.021,
        bound_bits_per_dim=bits + 0.01,
        difference=-0.05,
        difference_se=0.008,
        num_images=512,
        dequantization="truncated-normal",
        trace="hutchinson",
        rtol=1e-5,
        num_evaluations=214,
    )
    return Likelihood(
        bits_per_dim=bits,
        standard_error=0.0123,
        measurement_error=0.0021,
        sampling_error=0.0121,
        target_se=None,
        is_target_reached=None,
        decoder_bpd=0.31,
        diffusion_bpd=bits - 0.312,
        prior_bpd=0.002,
        num_evaluations=617_280,
        curve=curve,
        elbo=elbo,
        weightings=tuple(checks),
        ode=ode,
    )


def scores(**values):
    """Values, or pairs of a value and its standard error."""
    return {
        name: Value(*value) if isinstance(value, tuple) else Value(value)
        for name, value in values.items()
    }


SCORES = scores(frechet_distance=12.3, kernel_distance=(0.0123, 0.0011))


def full():
    real = scores(frechet_distance=4.56)
    return Evaluation(
        run="runs/fashion",
        step=5000,
        trained={
            "weighting": "Sigmoid(k=2.0)",
            "schedule": "Adaptive()",
            "parameterization": "V()",
            "num_parameters": 123_456,
        },
        split="test",
        num_images=10_000,
        num_evaluations=1_234_560,
        results={
            "unconditional": likelihood(2.9034, 0.5, (0.4, -1.3, 2.2, -0.1, 4.5)),
            "given_label": likelihood(2.8711, 0.4, (0.7, 1.1, -0.5, 0.2, 0.9)),
        },
        quality=SampleQuality(
            protocol=HOW,
            scores=SCORES,
            baseline=real,
            num_baseline=10_000,
        ),
        protocol=Protocol(
            data="fashion",
            data_sha256="0123456789abcdef",
            num_levels=256,
            logsnr_min=-10.0,
            logsnr_max=13.3,
            num_pilot_images=500,
            precision="bf16",
            seed=0,
            device="cpu",
            versions={"elbos": "0.1.0", "torch": "2.6.0"},
        ),
    )


@pytest.fixture
def result():
    return full()


def test_a_result_is_read_back_from_json(result):
    content = json.loads(json.dumps(result.to_dict()))
    assert Evaluation.from_dict(content) == result
    assert content["results"]["given_label"]["bits_per_dim"] == 2.8711
    distance = {"value": 0.0123, "standard_error": 0.0011}
    assert content["quality"]["scores"]["kernel_distance"] == distance


def test_a_file_of_something_else_is_refused(result, tmp_path):
    """A missing value, and one of another type."""
    (tmp_path / "eval.json").write_text('{"run": "runs/old"}')
    with pytest.raises(ValueError, match=r"eval.json.* step"):
        Evaluation.load(tmp_path / "eval.json")
    (tmp_path / "eval.json").write_text(json.dumps(result.to_dict() | {"step": "9"}))
    with pytest.raises(ValueError, match=r"eval.json.*'9'"):
        Evaluation.load(tmp_path / "eval.json")


def test_band_is_two_standard_errors_to_each_side(result):
    band, line = curves_figure(result).data[:2]
    half = len(line.x)
    errors = np.array(result.results["unconditional"].curve.standard_error)
    np.testing.assert_allclose(band.y[:half] - band.y[half:][::-1], 4 * errors, rtol=1e-9)
    np.testing.assert_allclose((band.y[:half] + band.y[half:][::-1]) / 2, line.y, rtol=1e-9)


def test_the_table_of_models_has_every_metric_that_was_computed(result):
    quality = replace(result.quality, scores=SCORES | scores(classifier_score=3.0))
    titles = [head.title for head in runs_table([replace(result, quality=quality)]).heads]
    assert titles[-len(quality.metrics) :] == [metric.title for metric in quality.metrics]


def test_real_images_are_compared_with_as_many_samples_only(result):
    """The kernel distance with any; it leads where there are fewer images than features."""
    real = scores(frechet_distance=4.56, kernel_distance=(0.0021, 0.0012))
    few = {"baseline": real, "num_baseline": 300}
    quality = replace(result.quality, **few, protocol=replace(HOW, num_features=64))
    text = words(page([replace(result, quality=quality)]).html())
    assert "4.560" not in text and "real-data baseline: 300 test images" in text
    assert quality.real(FRECHET_DISTANCE) is None and quality.metrics[0] is FRECHET_DISTANCE
    quality = replace(quality, protocol=HOW)
    assert quality.metrics[0] is KERNEL_DISTANCE
    text = words(page([replace(result, quality=quality)]).html())
    assert "0.0021 ± 0.0012" in text
    assert text.index("kernel distance ↓") < text.index("Fréchet distance ↓")


def test_what_was_not_measured_is_left_out(result):
    item = replace(result.results["unconditional"], ode=None)
    least = replace(result, results={"unconditional": item}, quality=None)
    text = words(page([least]).html())
    titles = ("Sample quality", "ODE − bound")
    for title in titles:
        assert title in words(page([result]).html()) and title not in text
    assert sum(isinstance(part, Table) for part in terminal(least).parts) == 5


def test_words_from_outside_are_inert(browser, result, tmp_path):
    content = json.dumps(result.to_dict()).replace('"given_label": ', f"{json.dumps(HOSTILE)}: ")
    for word in ("runs/fashion", "test", "train+val", "DPMSolver", "DPMSolver()", "ELBO", "V()"):
        content = content.replace(json.dumps(word), json.dumps(HOSTILE))
    hostile = Evaluation.from_dict(json.loads(content))
    hostile.to_html(tmp_path / "page.html", command=HOSTILE)
    with opened(browser, tmp_path / "page.html", width=1280) as view:
        assert view.evaluate("window.hacked") is None
        assert view.locator("img, script[src], iframe").count() == 0
        assert HOSTILE in view.title()
