"""The gallery: what public diffusion losses weigh. Writes index.html beside this file.

python docs/gallery/make.py [--out PATH] [--only NAME...]

Recipes and trainers' settings are exact; the showcases are measured, from examples/audit. Of every
trainer there are the default settings and some that people choose.
"""

import argparse
from pathlib import Path

from page import Card, page
from showcases import SHOWCASES

from elbos import audit
from elbos.adapters.trainers import TRAINERS, read_settings
from elbos.base.errors import suggestion
from elbos.base.html import write_html
from elbos.theory.recipes import RECIPES

HERE = Path(__file__).parent
COMMAND = "python docs/gallery/make.py"
FLUX = "flux_train_network.py --model_prediction_type raw"
SDXL = "--model_type STABLE_DIFFUSION_XL_10_BASE"
SETTINGS = {  # of each trainer, besides its defaults
    "diffusers": (
        *("train_text_to_image.py --snr_gamma 5", "train_dreambooth_lora_flux.py"),
        "train_text_to_image.py --snr_gamma 5 --prediction_type v_prediction",
        "train_dreambooth_lora_sd3.py",
    ),
    "kohya": (
        *("--min_snr_gamma 5", "--min_snr_gamma 5 --v_parameterization"),
        *("--debiased_estimation_loss", "--v_parameterization --zero_terminal_snr"),
        *(f"{FLUX} --timestep_sampling shift", f"{FLUX} --timestep_sampling uniform"),
    ),
    "musubi": (
        *("--timestep_sampling uniform", "--timestep_sampling shift --discrete_flow_shift 3"),
        "--timestep_sampling logsnr --logit_mean -6 --logit_std 2",
        "--timestep_sampling uniform --weighting_scheme cosmap",
        "--timestep_sampling sigma --weighting_scheme mode --mode_scale 0.5",
    ),
    "onetrainer": (
        *(f"{SDXL} --loss_weight_fn {kind}" for kind in ("MIN_SNR_GAMMA", "P2")),
        f"{SDXL} --loss_weight_fn DEBIASED_ESTIMATION",
        f"{SDXL} --rescale_noise_scheduler_to_zero_terminal_snr",
        "--model_type FLUX_DEV_1 --timestep_distribution LOGIT_NORMAL",
        "--model_type FLUX_DEV_1 --loss_weight_fn SIGMA",
    ),
    "simpletuner": (
        "--model_family flux --flow_use_uniform_schedule",
        "--model_family flux --flow_use_beta_schedule --flow_schedule_shift 1",
        "--model_family sdxl --train_batch_size 1 --snr_gamma 5",
    ),
    "ai-toolkit": (
        *(
            f"--noise_scheduler flowmatch --timestep_type {kind}"
            for kind in ("sigmoid", "linear", "weighted", "lognorm_blend")
        ),
        "--noise_scheduler flowmatch --linear_timesteps",
        "--min_snr_gamma 5",
    ),
    "diffusion-pipe": (
        "--model.type flux --shift 3",
        "--model.type flux --timestep_sample_method uniform",
        "--model.type sdxl --min_snr_gamma 5 --v_pred",
    ),
}


def recipe_card(name: str) -> Card:
    """A published recipe, exact."""
    recipe = RECIPES[name]
    return Card(
        name=name,
        group="recipe",
        title=recipe.title,
        audit=audit.from_recipe(name),
        source=recipe.reference,
        command=f"elbos audit {name}",
    )


def trainer_cards(name: str) -> list[Card]:
    """A trainer's default settings, and some that people choose; exact."""
    return [trainer_card(name, words) for words in ("", *SETTINGS[name])]


def trainer_card(name: str, words: str) -> Card:
    """Settings of a trainer, as the words of a command."""
    trainer = TRAINERS[name]
    result = trainer.audit(read_settings([*words.split()]))
    return Card(
        name=name,
        group="trainer",
        title=result.title,
        audit=result,
        settings=words or "by default",
        source=trainer.version,
        command=f'elbos audit "{name}:{words}"' if words else "",
    )


def main() -> None:
    """Make the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=HERE / "index.html")
    parser.add_argument("--only", nargs="+", help="names of recipes, trainers and showcases")
    options = parser.parse_args()

    known = [*RECIPES, *TRAINERS, *(one.name for one in SHOWCASES)]
    for name in options.only or ():
        if name not in known:
            parser.error(f"there is no {name!r}: {suggestion(name, known)}")

    def is_wanted(name: str) -> bool:
        return not options.only or name in options.only

    cards = [recipe_card(name) for name in filter(is_wanted, RECIPES)]
    cards += [card for name in filter(is_wanted, TRAINERS) for card in trainer_cards(name)]
    showcases = [one.measured() for one in SHOWCASES if is_wanted(one.name)]
    write_html(options.out, page(cards, showcases, command=COMMAND))
    size = options.out.stat().st_size
    print(f"{len(cards)} losses, {len(showcases)} showcases, {size / 1000:,.0f} kB: {options.out}")


if __name__ == "__main__":
    main()
