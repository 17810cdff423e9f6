"""A scheduler in the manner of diffusers': the cosine schedule, at the middles of its steps."""

from types import SimpleNamespace

import torch


class Layout:
    @staticmethod
    def sides(x):
        return x.shape[2:]


class TinyScheduler:
    def __init__(self, num_train_timesteps: int, prediction_type: str = "epsilon") -> None:
        self.config = SimpleNamespace(
            num_train_timesteps=num_train_timesteps, prediction_type=prediction_type
        )
        middles = (torch.arange(num_train_timesteps) + 0.5) / num_train_timesteps
        self.alphas_cumprod = torch.cos(torch.pi / 2 * middles) ** 2

    def register_to_config(self, prediction_type: str) -> None:
        self.config.prediction_type = prediction_type

    def scales(self, timesteps):
        alpha_bar = self.alphas_cumprod[timesteps].reshape(-1, 1, 1, 1)
        return alpha_bar.sqrt(), (1 - alpha_bar).sqrt()

    def add_noise(self, x, eps, timesteps):
        alpha, sigma = self.scales(timesteps)
        return alpha * x + sigma * eps

    def get_velocity(self, x, eps, timesteps):
        alpha, sigma = self.scales(timesteps)
        return alpha * eps - sigma * x
