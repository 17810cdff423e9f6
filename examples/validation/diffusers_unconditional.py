"""The loop of diffusers' script for unconditional images. Every 20 steps the lines marked with +
validate the averaged weights.

accelerate launch examples/validation/diffusers_unconditional.py
"""

import torch
import torch.nn.functional as F
from accelerate import Accelerator
from diffusers import DDPMScheduler, UNet2DModel
from diffusers.optimization import get_scheduler
from diffusers.training_utils import EMAModel
from sklearn.datasets import load_digits

import elbos  # +

images = torch.tensor(load_digits().images[:, None], dtype=torch.float32) / 8 - 1  # in [-1, 1]
train, test = torch.utils.data.random_split(images, [1500, 297], torch.Generator().manual_seed(0))
train_dataloader = torch.utils.data.DataLoader(train, batch_size=32, shuffle=True)
num_epochs = 1

accelerator = Accelerator()
model = UNet2DModel(
    sample_size=8,
    in_channels=1,
    out_channels=1,
    layers_per_block=1,
    block_out_channels=(16, 16),
    norm_num_groups=8,
    down_block_types=("DownBlock2D", "AttnDownBlock2D"),
    up_block_types=("AttnUpBlock2D", "UpBlock2D"),
)
ema_model = EMAModel(model.parameters(), decay=0.95)
noise_scheduler = DDPMScheduler(num_train_timesteps=1000, beta_schedule="linear")
optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, betas=(0.95, 0.999), weight_decay=1e-6)
lr_scheduler = get_scheduler(
    "cosine", optimizer, num_warmup_steps=10, num_training_steps=num_epochs * len(train_dataloader)
)
model, optimizer, train_dataloader, lr_scheduler = accelerator.prepare(
    model, optimizer, train_dataloader, lr_scheduler
)
ema_model.to(accelerator.device)

validator = elbos.Validator(test, num_levels=17, logsnr_max=9.2, num_evaluations=4)  # +
denoiser = lambda unet: elbos.adapters.diffusers.denoiser(unet, noise_scheduler)  # +
history = elbos.ValidationHistory(validator, denoiser, every=20, patience=3)  # +
log_validation = elbos.adapters.diffusers.log_validation  # +
global_step = 0
for _ in range(num_epochs):
    model.train()
    for clean_images in train_dataloader:
        noise = torch.randn_like(clean_images)
        num_steps = noise_scheduler.config.num_train_timesteps
        timesteps = torch.randint(0, num_steps, (len(clean_images),), device=clean_images.device)
        noisy_images = noise_scheduler.add_noise(clean_images, noise, timesteps)
        with accelerator.accumulate(model):
            loss = F.mse_loss(model(noisy_images, timesteps).sample, noise)
            accelerator.backward(loss)
            if accelerator.sync_gradients:
                accelerator.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            lr_scheduler.step()
            optimizer.zero_grad()
        if accelerator.sync_gradients:
            ema_model.step(model.parameters())
            global_step += 1
            log_validation(history, accelerator, model, global_step, ema=ema_model)  # +
    if history.should_stop:  # +
        break  # +
