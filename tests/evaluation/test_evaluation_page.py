"""The page of an evaluation, of numbers made up: it shows them all, and nothing gets out."""

import base64
import copy
import io
import json
import re

import numpy as np
import pytest
import torch
from browsing import HOSTILE, contrast, opened
from PIL import Image
from torch.nn.functional import softplus

from elbos.evaluation.figures import curves_figure, sweep_figure
from elbos.evaluation.page import evaluation_page, write_evaluation_page
from elbos.evaluation.words import plus_minus

COMMAND = "elbos evaluate runs/fashion --quality"
SAMPLERS = ("DPMSolver()", "Heun()", "Ancestral()")
GRID = "EDMSampling(logsnr_min=-10.0, logsnr_max=10.0, sigma_min=0.002, sigma_max=80.0, rho=7.0)"
WEIGHTINGS = ("ELBO()", "Sigmoid(k=2.0)", "EDM()", "Monotone(inner=EDM())", "MinSNR(gamma=5.0)")


def curves(scale):
    """The best losses possible on normal data of this scale, and their integral, in closed form."""
    logsnr = torch.linspace(-10, 10, 65, dtype=torch.float64)
    at = logsnr + 2 * np.log(scale)
    loss, elbo = 0.5 * at.sigmoid(), 0.5 * (softplus(at) - softplus(at[0])) + 0.002
    return {
        name: {
            "logsnr": logsnr.tolist(),
            "nats_per_dim": values.tolist(),
            "standard_error": (0.03 * values + 1e-4).tolist(),
        }
        for name, values in (("curve", loss), ("elbo", elbo))
    }


def condition(bits, scale, z):
    rows = [
        {
            "name": name,
            "is_monotone": name not in ("EDM()", "MinSNR(gamma=5.0)"),
            "loss": 1.25 + 0.02 * one,
            "loss_se": 0.016,
            "mixture": 1.25,
            "mixture_se": 0.012,
            "difference_se": 0.02,
            "z": one,
        }
        for name, one in zip(WEIGHTINGS, z, strict=True)
    ]
    ode = {
        "bits_per_dim": bits - 0.04,
        "standard_error": 0.021,
        "bound_bits_per_dim": bits + 0.01,
        "difference": -0.05,
        "difference_se": 0.008,
        "num_images": 512,
        "dequantization": "truncated normal",
        "trace": "Hutchinson",
        "rtol": 1e-5,
        "num_evaluations": 214,
    }
    terms = {"decoder_bpd": 0.31, "diffusion_bpd": bits - 0.312, "prior_bpd": 0.002}
    total = {"bits_per_dim": bits, "standard_error": 0.0123, "measurement_error": 0.0021}
    total["nats_per_dim"] = bits * np.log(2)
    return {**total, **terms, **curves(scale), "weightings": rows, "ode": ode}


def samples_scored(seed, distance):
    scores = {"frechet_distance": distance, "kernel_distance": 0.0123, "kernel_distance_se": 0.0011}
    return {"seed": seed, **scores, "precision": 0.71, "recall": 0.58, "inception_score": None}


def full():
    sets = [samples_scored(seed, 11.9 + 0.4 * seed) for seed in range(3)]
    points = [
        {
            "sampler": sampler,
            "grid": GRID,
            "num_steps": num,
            "num_evaluations": num * (2 if sampler == "Heun()" else 1),
            "frechet_distance": 14 + 600 * (1 + i) / num**1.5,
        }
        for i, sampler in enumerate(SAMPLERS)
        for num in (4, 8, 16, 32, 64)
    ]
    return {
        "run": "runs/fashion",
        "step": 5000,
        "images_seen": 640_000,
        "split": "test",
        "num_images": 10_000,
        "num_evaluations": 1_234_560,
        "results": {
            "unconditional": condition(2.9034, 0.5, (0.4, -1.3, 2.2, -0.1, 4.5)),
            "given_label": condition(2.8711, 0.4, (0.7, 1.1, -0.5, 0.2, 0.9)),
        },
        "quality": {
            "protocol": {
                "extractor": "EfficientNet-Lite0",
                "reference": "60,000 train images",
                "num_samples": 10_000,
                "sampler": "DPMSolver()",
                "grid": GRID,
                "num_steps": 32,
                "num_evaluations": 32,
                "guidance": 1.0,
                "seeds": [0, 1, 2],
            },
            "sets": sets,
            "mean": samples_scored(None, 12.3),
            "std": {"frechet_distance": 0.4, "kernel_distance": 7e-4, "precision": 0.004},
            "baseline": {
                "split": "test",
                "num": 10_000,
                "frechet_distance": 4.56,
                "precision": 0.8,
            },
        },
        "sweep": {
            "points": points,
            "num_samples": 2000,
            "best": points[4],
            "baseline": {"split": "test", "num": 2000, "frechet_distance": 12.3},
        },
        "protocol": {
            "quantity": "variational bound on -log p(x): decoder + diffusion + prior",
            "decoder": "softmax over 256 levels; no dequantization",
            "weights": "exponential moving average",
            "logsnr_min": -10.0,
            "logsnr_max": 10.0,
            "num_curve_images": 500,
            "versions": {"elbos": "0.1.0", "torch": "2.6.0"},
        },
    }


@pytest.fixture
def result():
    return full()


@pytest.fixture(scope="module")
def picture():
    pixels = np.random.default_rng(0).integers(0, 256, (402, 402, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="png")
    return buffer.getvalue()


# ------------------------------------------------------------------------------- without a browser


def words(html):
    """What is to be read, without tags and scripts."""
    body = re.sub(r"<(script|style|title).*?</\1>", "", html, flags=re.DOTALL)
    return re.sub(r"\s+", " ", re.sub(r"<wbr>|<.*?>", " ", body.replace("<wbr>", "")))


def island(html, name="elbos-evaluation"):
    (content,) = re.findall(rf'id="{name}">(.*?)</script>', html, re.DOTALL)
    return json.loads(content, parse_constant=pytest.fail)


@pytest.mark.parametrize("value", [2.9034, 123.456, 0.05, -0.0321, 1.5e-5])
@pytest.mark.parametrize("error", [0.0123, 0.0996, 2.5, 31.0, 4e-6])
def test_numbers_are_written_to_the_second_digit_of_their_error(value, error):
    shown, shown_error = (float(part) for part in plus_minus(value, error).split(" ± "))
    assert shown_error == pytest.approx(error, rel=0.05)
    assert shown == pytest.approx(value, abs=0.1 * error)


def test_upper_panel_is_the_slope_of_the_lower(result):
    fig = curves_figure(result["results"])
    lines = [trace for trace in fig.data if trace.mode == "lines"]
    for i, row in enumerate(result["results"].values()):
        loss, elbo = (line for line in lines if line.name == lines[i].name)
        assert (loss.yaxis, elbo.yaxis) == ("y", "y2") and loss.line.color == elbo.line.color
        assert np.trapezoid(loss.y, loss.x) == pytest.approx(elbo.y[-1] - elbo.y[0], rel=1e-3)
        np.testing.assert_array_equal(loss.y, row["curve"]["nats_per_dim"])


def test_band_is_two_standard_errors_to_each_side(result):
    band, line = curves_figure(result["results"]).data[:2]
    half = len(line.x)
    errors = np.array(result["results"]["unconditional"]["curve"]["standard_error"])
    np.testing.assert_allclose(band.y[:half] - band.y[half:][::-1], 4 * errors, rtol=1e-9)
    np.testing.assert_allclose((band.y[:half] + band.y[half:][::-1]) / 2, line.y, rtol=1e-9)


def test_sweep_has_a_line_for_each_sampler_and_grid_in_order_of_evaluations(result):
    points = result["sweep"]["points"]
    points.append({**points[0], "grid": "Cosine()"})
    points.reverse()
    fig = sweep_figure(points, 4.56)
    *lines, baseline = fig.data
    names = {f"{sampler}, {GRID}" for sampler in SAMPLERS} | {"DPMSolver(), Cosine()"}
    assert {line.name for line in lines} == names
    looks = {(line.line.color, line.line.dash) for line in fig.data}
    assert len(looks) == len(fig.data)
    assert len({line.line.color for line in lines if "DPMSolver" in line.name}) == 1
    assert all(list(line.x) == sorted(line.x) for line in lines)
    assert sum(len(line.x) for line in lines) == len(points)
    assert baseline.line.dash == "dash" and set(baseline.y) == {4.56}
    assert fig.layout.xaxis.type == fig.layout.yaxis.type == "log"
    low, high = (10**end for end in fig.layout.yaxis.range)
    assert low < 4.56 and high > max(point["frechet_distance"] for point in points)


def test_no_two_lines_of_a_sweep_look_alike(result):
    """Of all samplers, one of them with other settings besides, on all grids."""
    point = result["sweep"]["points"][0]
    names = [{"sampler": f"{s}()", "grid": f"{g}()"} for s in "ABCDEFGH" for g in "UVWX"]
    result["sweep"]["points"] = points = [point | name for name in names]
    *lines, _ = sweep_figure(points, 4.56).data
    assert len({(line.line.color, line.line.dash) for line in lines}) == len(names)
    result["sweep"]["best"] = points[6]
    html = evaluation_page(result)
    assert "Best: B() on W() with 4 evaluations" in words(html)
    legend = re.findall(r'<ul class="legend">(.*?)</ul>', html)[-1]
    assert len(set(re.findall("<svg.*?</svg>", legend))) == 8


def test_page_says_what_was_measured(result):
    text = words(evaluation_page(result, command=COMMAND))
    for shown in (
        "step 5,000 · 640,000 images seen · 10,000 test images",
        "2.903 ± 0.012",
        "2.871 ± 0.012",
        "12.30 ± 0.40",
        "baseline 4.56",
        "-0.0500 ± 0.0080",
        "9 of 10 agree",
        "✗ +4.50",
        "mean of 3 seeds",
        "0.0123 ± 0.0011",
        "elbos 0.1.0, torch 2.6.0",
        f"Best: DPMSolver() on {GRID} with 64 evaluations, 15.17.",
        COMMAND,
    ):
        assert shown in text, shown
    assert "Inception" not in text  # nobody measured it
    assert "None" not in text and "nan" not in text


def test_fewer_real_images_than_samples_are_held_against_as_many_samples(result):
    """On the card, too; and the kernel distance leads where these are fewer than features."""
    quality = result["quality"]
    quality["baseline"] |= {"num": 300, "kernel_distance": 0.0021, "kernel_distance_se": 0.0012}
    sets = [samples_scored(seed, 34.6) | {"kernel_distance": None} for seed in range(3)]
    mean = {"frechet_distance": 34.6, "precision": 0.71}
    quality["matched"] = {"num": 300, "sets": sets, "mean": mean, "std": {"frechet_distance": 0.5}}
    text = words(evaluation_page(result))
    assert "34.60 ± 0.50 real-data baseline 4.56" in text
    assert "seed 2, the first 300 samples" in text and "real-data baseline: 300 test images" in text
    quality["protocol"]["num_features"] = 1280
    text = words(evaluation_page(result))
    assert "0.01230 ± 0.00070 real-data baseline 0.0021 ± 0.0012" in text
    assert text.index("kernel distance") < text.index("Fréchet distance")


def test_a_sweep_has_real_images_of_its_own_number_or_none(result):
    shown = "real-data baseline, 2,000 images"
    assert shown in words(evaluation_page(result))
    result["sweep"]["baseline"]["num"] = 300
    assert shown not in words(evaluation_page(result))


def test_island_holds_every_number(result):
    content = island(evaluation_page(result, command=COMMAND))
    assert content["evaluation"] == json.loads(json.dumps(result))
    assert content["command"] == COMMAND


def test_what_is_no_number_is_left_out(result):
    row = result["results"]["unconditional"]
    row["bits_per_dim"] = row["curve"]["nats_per_dim"][3] = float("nan")
    result["sweep"]["points"][0]["frechet_distance"] = float("inf")
    html = evaluation_page(result)
    shown = island(html)["evaluation"]["results"]["unconditional"]
    assert shown["bits_per_dim"] is None and shown["curve"]["nats_per_dim"][3] is None
    assert not re.search(r"\b(nan|inf|None)\b", words(html))


SECTIONS = {
    "quality": "Sample quality",
    "sweep": "Quality by network evaluations",
    "protocol": "Protocol",
    "weightings": "The theorem, measured",
    "ode": "Bound and ODE",
    "elbo": "ELBO of noisy data",
}


@pytest.mark.parametrize("is_null", [True, False], ids=["null", "absent"])
@pytest.mark.parametrize("key", SECTIONS)
def test_parts_that_were_not_measured_are_left_out(result, key, is_null):
    assert SECTIONS[key] in words(evaluation_page(result))
    for place in (result, *result["results"].values()):
        if key in place:
            place.pop(key)
            place.update({key: None} if is_null else {})
    text = words(evaluation_page(result))
    assert SECTIONS[key] not in text
    assert all(title in text for other, title in SECTIONS.items() if other != key)


def test_least_that_there_can_be():
    text = words(evaluation_page({"results": {"unconditional": {"bits_per_dim": 2.5}}}))
    assert "Bits/dim 2.5" in text
    assert not any(title in text for title in [*SECTIONS.values(), "By noise level", "as a table"])


def test_every_key_of_a_result_may_be_null(result):
    row = result["results"]["given_label"]
    for place in (*row["weightings"], row["ode"], row, *result["quality"]["sets"], result):
        for key in set(place) - {"results", "name"}:
            one = copy.deepcopy(place[key])
            place[key] = None
            assert "None" not in words(evaluation_page(result)), key
            place[key] = one


def test_toys_are_told_the_true_density(result):
    row = result["results"]["unconditional"]
    row["exact_bits_per_dim"] = 1.7654
    text = words(evaluation_page(result))
    assert "the true density has 1.765." in text and "true density prior" not in text


def test_page_is_written_whole_and_the_same_each_time(result, picture, tmp_path):
    write_evaluation_page(result, tmp_path / "page.html", samples=picture, command=COMMAND)
    html = (tmp_path / "page.html").read_text()
    assert html == evaluation_page(result, samples=picture, command=COMMAND)
    assert [path.name for path in tmp_path.iterdir()] == ["page.html"]
    (source,) = re.findall(r'src="data:image/png;base64,(.*?)"', html)
    assert base64.b64decode(source) == picture


def test_a_folder_that_is_not_there_is_named(result, tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        write_evaluation_page(result, tmp_path / "nowhere" / "page.html")


# ---------------------------------------------------------------------------------- in the browser


@pytest.fixture(scope="module")
def path(picture, tmp_path_factory):
    path = tmp_path_factory.mktemp("page") / "page.html"
    write_evaluation_page(full(), path, samples=picture, command=COMMAND)
    return path


@pytest.fixture(scope="module")
def view(browser, path):
    with opened(browser, path, width=1280, accept_downloads=True) as page:
        yield page


def test_all_is_drawn(view):
    assert view.locator("#plot .scatterlayer .js-line").count() == 2 * 4  # with bands
    assert view.locator("#plot-sweep .scatterlayer .js-line").count() == len(SAMPLERS) + 1
    assert view.locator("img.samples").evaluate("image => image.naturalWidth") == 402


def test_nothing_is_wider_than_the_screen(browser, path):
    with opened(browser, path, width=390, is_mobile=True, has_touch=True) as page:
        page.locator("summary").click()
        for width in (390, 360):
            page.set_viewport_size({"width": width, "height": 800})
            assert page.evaluate("document.documentElement.scrollWidth") == width


def test_all_is_read_in_the_light_and_in_the_dark(view):
    places = ["#plot .xtick text", "#plot-sweep .ytick text", "h1", ".kicker", ".big", ".big small"]
    places += [".notes", ".legend", ".measured td", ".measured th", "footer p"]
    script = """places => [...places.map(place => {
        const style = getComputedStyle(document.querySelector(place));
        return place.startsWith("#") ? style.fill : style.color;
    }), getComputedStyle(document.body).backgroundColor]"""
    seen = []
    for scheme in ("light", "dark"):
        view.emulate_media(color_scheme=scheme)
        *inks, paper = view.evaluate(script, places)
        assert min(contrast(ink, paper) for ink in inks) > 4.5
        seen.append(paper)
    assert contrast(*seen) > 15


def test_each_plot_is_saved_under_its_name(view):
    for button, name in zip(view.locator(".save").all(), ["curves", "sweep"], strict=True):
        with view.expect_download() as download:
            button.click()
        assert download.value.suggested_filename == f"elbos-{name}.png"
        with Image.open(download.value.path()) as image:
            assert image.width == 2000


def test_words_from_outside_are_inert(browser, tmp_path):
    hostile = json.loads(json.dumps(full()).replace("DPMSolver()", "@").replace("ELBO()", "@"))
    hostile |= {"run": HOSTILE, "split": HOSTILE, "protocol": {HOSTILE: HOSTILE}}
    hostile["quality"]["protocol"] |= {"reference": HOSTILE, HOSTILE: HOSTILE}
    hostile["quality"]["baseline"]["split"] = HOSTILE
    hostile["results"] = {HOSTILE: hostile["results"]["unconditional"]}
    text = json.dumps(hostile).replace('"@"', json.dumps(HOSTILE))
    write_evaluation_page(json.loads(text), tmp_path / "page.html", command=HOSTILE)
    with opened(browser, tmp_path / "page.html", width=1280) as page:
        assert page.evaluate("window.hacked") is None
        assert page.locator("img, script[src], iframe").count() == 0
        assert HOSTILE in page.title()


def test_a_page_without_plots_is_quiet(browser, tmp_path):
    least = {"results": {"unconditional": {"bits_per_dim": 2.5}}}
    write_evaluation_page(least, tmp_path / "page.html")
    with opened(browser, tmp_path / "page.html", width=390) as page:
        page.wait_for_function("() => window.Plotly")
