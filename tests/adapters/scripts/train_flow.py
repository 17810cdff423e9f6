"""A script in the manner of diffusers' for Stable Diffusion 3 and Flux: packed latents, a table."""

import argparse
import copy

import torch
from no_such_library import Accelerator, DreamDataset, Transformer
from tiny_scheduler import Layout, TinyScheduler


def parse_args(input_args=None):
    parser = argparse.ArgumentParser()
    group = parser.add_mutually_exclusive_group(required=True)
    group.add_argument("--instance_data_dir")
    group.add_argument("--dataset_name")
    parser.add_argument("--power", type=float)
    parser.add_argument("--train_text_encoder", action="store_true")
    return parser.parse_args(input_args)


def pack(x):
    b, c, h, w = x.shape
    x = x.view(b, c, h // 2, 2, w // 2, 2).permute(0, 2, 4, 1, 3, 5)
    return x.reshape(b, h * w // 4, 4 * c)


def unpack(x, height, width):
    b, _, c = x.shape
    x = x.view(b, height // 2, width // 2, c // 4, 2, 2).permute(0, 3, 1, 4, 2, 5)
    return x.reshape(b, c // 4, height, width)


def train(options):
    accelerator = Accelerator()
    scheduler = TinyScheduler(1000)
    scheduler_copy = copy.deepcopy(scheduler)
    scheduler_copy.sigmas = torch.linspace(1, 1e-3, 1000)
    transformer = Transformer.from_pretrained("transformer")
    transformer = accelerator.prepare(transformer)
    params = transformer.parameters()
    dataset = DreamDataset(options.instance_data_dir)

    def get_sigmas(indices, n_dim=4):
        sigma = scheduler_copy.sigmas.to(accelerator.device)[indices]
        while len(sigma.shape) < n_dim:
            sigma = sigma.unsqueeze(-1)
        return sigma

    for batch in dataset:
        optimizer = torch.optim.AdamW(params)
        if dataset.custom_prompts and not options.train_text_encoder:
            prompt = transformer.encode(batch["prompts"])
        pixels = batch["pixels"]
        model_input = (transformer.vae.encode(pixels) - 0.1) * transformer.vae.scale
        noise = torch.randn_like(model_input)
        indices = (torch.rand(model_input.shape[0]) * 1000).long()
        sigmas = get_sigmas(indices, n_dim=model_input.ndim)
        noisy = pack((1.0 - sigmas) * model_input + sigmas * noise)
        guidance = None
        if transformer.config.guidance_embeds:
            guidance = torch.tensor([3.5]).expand(model_input.shape[0])
        pred = transformer(hidden_states=noisy, timestep=indices / 1000, prompt=prompt, g=guidance)
        pred = unpack(pred.sample, *Layout.sides(model_input))
        loss = sigmas**options.power * (pred.float() - (noise - model_input).float()) ** 2
        accelerator.backward(loss.reshape(noise.shape[0], -1).mean(1).mean())
        optimizer.step()


if __name__ == "__main__":
    args = parse_args()
    train(args)
