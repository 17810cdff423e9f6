"""A script without functions: a gradient scaler, and batches of images with labels."""

import torch
from no_such_library import build_model, loader

model = build_model("small").cuda()
model.train()
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
scaler = torch.cuda.amp.GradScaler()
sigma_data = 0.5

for step, (images, labels) in enumerate(loader):
    optimizer.zero_grad()
    with torch.autocast("cuda", enabled=False):
        sigma = (1.2 * torch.randn(len(images), 1, 1, 1, device="cuda") - 1.2).exp()
        noised = images.cuda() + sigma * torch.randn_like(images.cuda())
        c_skip = sigma_data**2 / (sigma**2 + sigma_data**2)
        c_out = sigma * sigma_data / (sigma**2 + sigma_data**2).sqrt()
        c_in = 1 / (sigma**2 + sigma_data**2).sqrt()
        denoised = c_skip * noised + c_out * model(c_in * noised, sigma.log() / 4, labels)
        loss = ((denoised - images.cuda()) ** 2 / c_out**2).mean()
    print(step, loss.item())
    scaler.scale(loss).backward()
