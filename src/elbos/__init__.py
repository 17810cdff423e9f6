r"""elbos: what does a diffusion loss ask for?

Every diffusion training loss is a weighted integral of ELBOs, one per noise level (Kingma & Gao
2023, https://arxiv.org/abs/2303.00848). The modules, each of which may import only from those
before it:

| module | what it holds |
|---|---|
| `arrays` | the type of NumPy arrays in annotations |
| `process` | the Gaussian process $z = \alpha x + \sigma \epsilon$, in log-SNR |
| `schedules`, `adaptive` | a noise schedule is a distribution over log-SNR |
| `parameterizations` | what a network predicts, $y = a x + b \epsilon$ |
| `extrema`, `weightings`, `tabulated` | $w(\lambda)$, and where it rises |
| `recipes` | published recipes and the weighting that each implies |
| `analysis` | monotone or not, the mixture of ELBOs, the theorem |
| `report` | results as HTML pages that are whole in themselves |
| `audit` | the weighting of somebody else's loss function, measured |
| `denoiser`, `oracles` | network + parameterization, and data for which everything is known |
| `objective` | the weighted loss, per sample |
| `samplers`, `likelihood` | from a denoiser to samples and to bits per dimension |
| `networks`, `training`, `evaluation` | the rest of a real run |
| `runs` | what is on disk: directories, checkpoints, configurations |
| `comparison` | objectives against each other: many runs, paired, and a report |
| `adapters`, `cli` | other people's formats; the command line |
"""

__version__ = "0.1.0"
