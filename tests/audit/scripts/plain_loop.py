"""A loop with arguments: v-prediction on a cosine table, weighted by Min-SNR."""

import argparse
import math

import torch
from neighbour import Network

parser = argparse.ArgumentParser()
parser.add_argument("--snr-gamma", type=float, default=None)
parser.add_argument("--num-steps", type=int, default=10_000)
parser.add_argument("--discriminator", action="store_true")  # of noisy data, trained elsewhere
parser.add_argument("--fails-at", type=int, default=-1)


def main(args):
    torch.manual_seed(0)
    network = Network()
    discriminator = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(32, 1))
    optimizer = torch.optim.SGD(network.parameters(), lr=1e-3)
    for step in range(args.num_steps):
        if step == args.fails_at:
            raise RuntimeError("no more data")
        x = 2 * torch.rand(64, 2, 4, 4) - 1
        t = torch.rand(64, 1, 1, 1)
        alpha, sigma = torch.cos(math.pi / 2 * t), torch.sin(math.pi / 2 * t)
        eps = torch.randn_like(x)
        z = alpha * x + sigma * eps
        if args.discriminator:
            discriminator(z)
        error = (network(z, t.flatten()) - (alpha * eps - sigma * x)) ** 2
        snr = (alpha / sigma) ** 2
        weight = torch.ones_like(snr)
        if args.snr_gamma is not None:
            weight = snr.clamp(max=args.snr_gamma) / (snr + 1)
        loss = (weight * error).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


if __name__ == "__main__":
    main(parser.parse_args())
