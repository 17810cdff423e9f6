"""A script in the manner of diffusers' for control networks: lists, and a second network."""

import argparse
import os

import torch
from no_such_library import Accelerator, Adapter, Control, Transformer, hub_download
from tiny_scheduler import TinyScheduler


def scheduler_type(folder):
    if not os.path.isdir(folder):
        folder = hub_download(folder)
    with open(os.path.join(folder, "model_index.json")) as file:
        return file.read()


def main(args, data):
    accelerator = Accelerator()
    if "EDM" in scheduler_type(args.model):
        raise NotImplementedError
    scheduler = TinyScheduler(num_train_timesteps=500)
    control, transformer = Control(args.model), Transformer.from_pretrained(args.model)
    adapter = Adapter(args.model)
    control.train()
    num_noisy = 0

    def with_noise(latents, noise, times):
        nonlocal num_noisy
        num_noisy += 1
        return scheduler.add_noise(latents, noise, times)

    for batch in data:
        pixels = batch["pixels"]
        latents = []
        for i in range(0, pixels.shape[0], 8):
            latents.append(adapter.vae.encode(pixels[i : i + 8]))  # noqa: PERF401
        latents = torch.cat(latents, dim=0)
        latents = latents * adapter.vae.config.scaling_factor

        noise = torch.randn_like(latents)
        times = (torch.rand(latents.shape[0], device=accelerator.device) * 500).long()
        noisy = with_noise(latents, noise, times)
        residuals, embedding = control(noisy, times, hint=batch["hint"])
        samples = list(noisy.unsqueeze(2).unbind(dim=0))
        prompts = [one for one in batch["prompts"] for _ in range(3)]
        predicted = transformer(
            samples,
            times,
            prompts,
            residuals=[one.to(torch.float32) for one in residuals],
            embedding=embedding,
            return_dict=False,
        )[0]
        predicted = torch.stack(predicted, dim=0).squeeze(2)
        loss = (predicted - scheduler.get_velocity(latents, noise, times)).square().mean()
        accelerator.backward(loss)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--model")
    main(parser.parse_args(), Accelerator.data())
