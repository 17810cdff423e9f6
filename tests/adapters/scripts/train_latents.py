"""A script in the manner of diffusers' for Stable Diffusion. Nothing but its loss can be run."""

import argparse
import os

import torch
import torch.nn.functional as F
from no_such_library import Accelerator, AutoencoderKL, CLIPTextModel, UNet, load_dataset
from no_such_library.logging import get_logger
from tiny_scheduler import TinyScheduler

logger = get_logger(__name__)


def parse_args():
    parser = argparse.ArgumentParser(description="A training script.")
    parser.add_argument("--pretrained_model_name_or_path", type=str, required=True)
    parser.add_argument("--snr_gamma", type=float, default=None)
    parser.add_argument("--prediction_type", choices=["epsilon", "v_prediction"])
    parser.add_argument("--interpolation", choices=list(load_dataset.MODES), default="nearest")
    parser.add_argument("--noise_offset", type=float, default=0)
    args = parser.parse_args()
    if args.pretrained_model_name_or_path is None:
        raise ValueError("a model is needed")
    return args


def compute_snr(scheduler, timesteps):
    alpha_bar = scheduler.alphas_cumprod.to(timesteps.device)[timesteps]
    return alpha_bar / (1 - alpha_bar)


def main():
    args = parse_args()
    os.mkdir("trained")
    accelerator = Accelerator(mixed_precision="fp16")
    noise_scheduler = TinyScheduler(num_train_timesteps=500)
    vae = AutoencoderKL.from_pretrained(args.pretrained_model_name_or_path)
    text_encoder = CLIPTextModel.from_pretrained(args.pretrained_model_name_or_path)
    unet = UNet.from_pretrained(args.pretrained_model_name_or_path)
    vae.requires_grad_(False)
    text_encoder.requires_grad_(False)
    unet.train()
    weight_dtype = torch.float32
    if accelerator.mixed_precision == "fp16":
        weight_dtype = torch.float16
    train_dataloader = torch.utils.data.DataLoader(load_dataset("images"), batch_size=4)
    optimizer = torch.optim.AdamW(unet.parameters())

    global_step = 0
    for _epoch in range(100):
        train_loss = 0.0
        for step, batch in enumerate(train_dataloader):
            with accelerator.accumulate(unet):
                latents = vae.encode(batch["pixel_values"].to(weight_dtype)).latent_dist.sample()
                latents = latents * vae.config.scaling_factor

                noise = torch.randn_like(latents)
                if args.noise_offset:
                    noise += args.noise_offset * torch.randn(
                        (latents.shape[0], latents.shape[1], 1, 1), device=latents.device
                    )
                steps = noise_scheduler.config.num_train_timesteps
                timesteps = torch.randint(0, steps, (latents.shape[0],), device=latents.device)
                noisy_latents = noise_scheduler.add_noise(latents, noise, timesteps)
                hidden_states = text_encoder(batch["input_ids"], return_dict=False)[0]
                time_ids = torch.cat([torch.tensor([s, *c]) for s, c in batch["sizes"]])

                if args.prediction_type is not None:
                    noise_scheduler.register_to_config(prediction_type=args.prediction_type)
                if noise_scheduler.config.prediction_type == "epsilon":
                    target = noise
                elif noise_scheduler.config.prediction_type == "v_prediction":
                    target = noise_scheduler.get_velocity(latents, noise, timesteps)
                else:
                    raise ValueError(f"Unknown type {noise_scheduler.config.prediction_type}")

                condition = {"time_ids": time_ids}
                condition.update({"step": step})
                pred = unet(noisy_latents, timesteps, hidden_states, condition, return_dict=False)[
                    0
                ]
                if args.snr_gamma is None:
                    loss = F.mse_loss(pred.float(), target.float(), reduction="mean")
                else:
                    snr = compute_snr(noise_scheduler, timesteps)
                    weights = torch.stack([snr, args.snr_gamma * torch.ones_like(snr)], dim=1)
                    weights = weights.min(dim=1)[0]
                    if noise_scheduler.config.prediction_type == "epsilon":
                        weights = weights / snr
                    else:
                        weights = weights / (snr + 1)
                    loss = F.mse_loss(pred.float(), target.float(), reduction="none")
                    loss = (loss.mean(dim=list(range(1, len(loss.shape)))) * weights).mean()

                train_loss += accelerator.gather(loss).mean().item()
                accelerator.backward(loss)
                optimizer.step()
            global_step += 1
            logger.info(f"{global_step}: {train_loss}")


if __name__ == "__main__":
    main()
