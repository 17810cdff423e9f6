"""A UNet2DModel of diffusers, trained by `elbos.fit` and saved in a folder that diffusers opens.

python examples/diffusers_unet.py
elbos evaluate runs/unet/pipeline data:digits
"""

import sys

import numpy as np
import torch
from diffusers import DDPMPipeline, DDPMScheduler, UNet2DModel

import elbos
from elbos.training.data import Digits


class Wrapped(torch.nn.Module):
    """The network at a log-SNR: it gets the step of the scheduler's table that is there."""

    def __init__(self, unet: UNet2DModel, table: np.ndarray) -> None:
        super().__init__()
        self.unet, self.table = unet, table

    def forward(self, z: torch.Tensor, logsnr: torch.Tensor) -> torch.Tensor:
        step = np.interp(-logsnr.cpu().numpy(), -self.table, np.arange(len(self.table)))
        return self.unet(z, torch.from_numpy(step).to(z)).sample


blocks = {"down_block_types": ["DownBlock2D"] * 2, "up_block_types": ["UpBlock2D"] * 2}
unet = UNet2DModel(8, 1, 1, block_out_channels=(32, 64), norm_num_groups=8, **blocks)
scheduler = DDPMScheduler(clip_sample=False)
table = scheduler.alphas_cumprod.double().logit().numpy()  # log-SNR by step
objective = elbos.Objective(
    weighting=elbos.weightings.Sigmoid(k=2.0),
    schedule=elbos.adaptive.Adaptive(logsnr_min=table[-1], logsnr_max=table[0]),
    parameterization=elbos.parameterizations.Eps(),
)
digits = Digits().load().train
x, _ = digits.batch(torch.arange(len(digits)))  # [n, 1, 8, 8] in [-1, 1]
num_images = int(sys.argv[1]) if sys.argv[1:] else 50_000
run = elbos.fit(
    Wrapped(unet, table), x, objective, run="runs/unet", num_images=num_images, num_levels=17
)
DDPMPipeline(run.network.unet, scheduler).save_pretrained("runs/unet/pipeline")  # averaged weights
