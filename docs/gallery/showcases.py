"""The gallery's showcases: losses of examples/audit that go by one name, measured.

Each is `elbos audit examples/audit/FILE:FUNCTION --shape 3 8 8`. The texts speak of formulas and
settings, with the version that was read.
"""

import runpy
from dataclasses import dataclass
from pathlib import Path

import torch
from page import Card, Showcase

from elbos import audit

EXAMPLES = Path(__file__).parents[2] / "examples/audit"
SHAPE = (3, 8, 8)
SHAPE_WORDS = " ".join(map(str, SHAPE))


@dataclass(frozen=True, kw_only=True)
class Compared:
    """Functions of a file, and what comparing them shows.

    Attributes:
        title: A heading.
        text: What is compared: formulas, settings, versions.
        file: In examples/audit.
        functions: Its losses, the one that is meant first.
    """

    title: str
    text: str
    file: str
    functions: tuple[str, ...]

    def measured(self, num_samples: int = 20_000) -> Showcase:
        """The losses, audited."""
        module = runpy.run_path(str(EXAMPLES / self.file))
        audits = {name: measured(module[name], num_samples) for name in self.functions}
        first = audits[self.functions[0]]
        cards = [
            Card(
                name=name,
                group="showcase",
                title=module[name].__doc__.splitlines()[0],
                audit=found,
                beside=None if found is first else first,
                command=f"elbos audit examples/audit/{self.file}:{name} --shape {SHAPE_WORDS}",
            )
            for name, found in audits.items()
        ]
        return Showcase(name=self.name, title=self.title, text=self.text, cards=cards)

    @property
    def name(self) -> str:
        """That of the file."""
        return Path(self.file).stem


def measured(loss: audit.LossFunction, num_samples: int) -> audit.Audit:
    """The audit that the command makes."""
    x = 2 * torch.rand(64, *SHAPE, generator=torch.Generator().manual_seed(0)) - 1
    return audit.probe(loss, x, num_samples)


SHOWCASES = (
    Compared(
        title="Min-SNR with v-prediction: four losses for one flag",
        text="Min-SNR's weight is min(snr, γ) of the squared error of x. That of v is snr + 1 "
        "times as large, so its weight is min(snr, γ)/(snr + 1): sd-scripts from 0.7.1, "
        "diffusers' scripts from 0.26, OneTrainer at 23df383. diffusers' scripts had min(snr, "
        "γ)/snr, the weight of eps, before 0.22 (as sd-scripts had before 0.7.1), then "
        "min(snr, γ)/snr + 1 for two weeks (pull requests 5106 to 5238) and min(snr + 1, "
        "γ)/(snr + 1) in 0.22 to 0.25. Here γ = 5, on Stable Diffusion's steps.",
        file="diffusers_v_prediction.py",
        functions=("correct", "plus_one", "snr_plus_one", "eps_weight"),
    ),
    Compared(
        title="Debiased estimation with v-prediction: three losses for one name",
        text="The paper (https://arxiv.org/abs/2310.08442) gives the squared error of eps the "
        "weight 1/√snr, which of v is √snr/(snr + 1). sd-scripts 0.10.1 has 1/(snr + 1) for "
        "v, OneTrainer at 23df383 and diffengine 1.0.0 have 1/√(snr + 1). The last two train "
        "noisier levels.",
        file="debiased.py",
        functions=("paper", "inverse", "root"),
    ),
    Compared(
        title="Beta(1.5, 1) times without the rejection",
        text="U^(1/a)/(U^(1/a) + V^(1/b)) of uniform numbers is Beta(a, b) only if pairs whose sum "
        "is above 1 are drawn anew. Taken all, as in lerobot's pi0 and SmolVLA before 0.3.3, "
        "they have 2.26 times the density of Beta(1.5, 1) at t = 0.5, and 0.40 times at both "
        "ends.",
        file="beta_times.py",
        functions=("exact", "ratio"),
    ),
    Compared(
        title="P2 with something counted twice",
        text="P2's weight λ/(1 + snr)^γ is one of the bound, where λ makes the plain loss of eps: "
        "for the squared error of eps it is 1/(1 + snr)^γ. With the SNR for λ it counts "
        "twice. For v, OneTrainer at 23df383 puts snr + 1 for the SNR, so that the 1 counts "
        "twice: 1/(2 + snr)^γ of the squared error of v. Here γ = 1, with the cosine "
        "schedule.",
        file="p2.py",
        functions=("published", "snr_twice", "one_twice"),
    ),
    Compared(
        title="EDM with the sign of its mean flipped",
        text="EDM's ln σ has the mean −1.2, hence log-SNR = −2 ln σ the mean +2.4. With +1.2, the "
        "central 50 % of the expected loss is at 2 to 9 times the noise of standard normal "
        "data.",
        file="flipped_mean.py",
        functions=("published", "flipped"),
    ),
    Compared(
        title="Times from three densities: two rises",
        text="Logit-normal times with Flux's shift, and the same for 79 % of the samples with 11 % "
        "normal(−6, 2) and 10 % normal(5.36, 1) in log-SNR, as musubi-tuner 0.3.4 has with "
        "timestep_sampling qinglong_flux, logit_mean −6 and logit_std 2. Besides the "
        "rise below log-SNR −9.8, where hardly anything is drawn, the weighting rises where the "
        "cleanest density sets in, on [3.1, 5.3] by a factor of 4.",
        file="three_densities.py",
        functions=("one", "three"),
    ),
)
