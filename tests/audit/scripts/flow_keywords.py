"""No functions; the noise is drawn by its shape, and the network is called by keywords.

Before the training the network samples, as scripts do that show first pictures.
"""

import sys

import torch
from neighbour import Network

torch.manual_seed(0)
network = Network()
if "--compile" in sys.argv:
    network = torch.compile(network, backend="eager")
optimizer = torch.optim.SGD(network.parameters(), lr=1e-3)
with torch.no_grad():
    z = torch.randn(64, 2, 4, 4)
    for i in range(8):
        z = z - network(z=z, timestep=torch.full((64,), 1 - i / 8)) / 8
while True:
    x = 2 * torch.rand(64, 2, 4, 4) - 1
    noise = torch.randn(x.shape)
    t = torch.sigmoid(torch.randn(64))
    t_ = t[:, None, None, None]
    z = (1 - t_) * x + t_ * noise
    velocity = network(z=z, timestep=t)
    loss = torch.nn.functional.mse_loss(velocity, noise - x)
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
