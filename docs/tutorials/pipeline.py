# # How good is this pipeline?
#
# Somebody's model is a folder that diffusers reads. Its bound on held-out images says how many
# bits a pixel costs it, with an error, and where on the way from noise to image it loses them.

import tempfile

import matplotlib.pyplot as plt
import torch
from diffusers import DDPMPipeline, DDPMScheduler, UNet2DModel

import elbos
from elbos.training.data import digits

# ## A pipeline
#
# For a real one, `folder` is where `save_pretrained` wrote it. This one is trained here, in
# diffusers' own way, on digits.

images, _ = digits.images_and_labels()
x = images.float() / 8 - 1
train, test = x[:1500], x[1500:]

torch.manual_seed(0)
unet = UNet2DModel(
    sample_size=8,
    in_channels=1,
    out_channels=1,
    block_out_channels=(16, 32),
    down_block_types=("DownBlock2D", "AttnDownBlock2D"),
    up_block_types=("AttnUpBlock2D", "UpBlock2D"),
    norm_num_groups=8,
)
scheduler = DDPMScheduler()
optimizer = torch.optim.Adam(unet.parameters(), betas=(0.9, 0.99))
learning_rate = torch.optim.lr_scheduler.OneCycleLR(optimizer, 5e-3, total_steps=700)


def train_for(num_steps):
    for _ in range(num_steps):
        clean = train[torch.randint(len(train), (32,))]
        noise, t = torch.randn_like(clean), torch.randint(1000, (len(clean),))
        noisy = scheduler.add_noise(clean, noise, t)
        torch.nn.functional.mse_loss(unet(noisy, t).sample, noise).backward()
        optimizer.step()
        learning_rate.step()
        optimizer.zero_grad()


folders = []
for num_steps in (500, 200):
    train_for(num_steps)
    folders.append(tempfile.mkdtemp())
    DDPMPipeline(unet, scheduler).save_pretrained(folders[-1])

# ## Two checkpoints, measured

validator = elbos.Validator(test, num_levels=17, logsnr_min=-10.0, logsnr_max=9.2)
results = []
for folder in folders:
    pipeline = elbos.adapters.diffusers.load(folder)
    results.append(validator(pipeline.denoiser))
    print(f"{results[-1].bits_per_dim:.3f} ± {results[-1].standard_error:.3f} bits/dim")
difference = results[1].difference(results[0])
print(f"the second is lower by {-difference.mean:.3f} ± {difference.standard_error:.3f}")

# Both have the same images and noise, so that the error of the difference is smaller than those
# of the numbers.

# ## Where it was gained

curve = results[1].difference_by_level(results[0])
plt.errorbar(curve.logsnr, curve.nats_per_dim, [2 * e for e in curve.standard_error], marker=".")
plt.axhline(0, color="0.8")
plt.xlabel("log-SNR λ: noise on the left, data on the right")
plt.ylabel("change of the loss, nats per dimension")
plt.show()

# The area under this curve is the gain. [The guide](../evaluation.md) says what else a pipeline
# can be asked: sample quality, the ODE's likelihood.
