"""Networks of diffusers with packed or conditional latents, against what diffusers' own training
scripts call and regress (examples/ of 0.40 to 0.42; Wan has no script, and follows its pipeline).
"""

import json
import re
from pathlib import Path

import pytest
import torch
from torch.nn.functional import pixel_unshuffle

from elbos.adapters.diffusers import Latents, denoiser
from elbos.theory.process import align, alpha_sigma

diffusers = pytest.importorskip("diffusers")

# of numpy's, in diffusers
pytestmark = pytest.mark.filterwarnings("ignore:__array_:DeprecationWarning")

CONFIGS = Path(__file__).with_name("families.json")
B, L = 4, 5  # samples; as many as a side of the latents, so that no axis broadcasts; tokens of text
IMAGE = (B, 4, 4, 6)


def randn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def patches(z):
    """2 x 2 latents as a token, channels first within the token."""
    b, c, h, w = z.shape
    z = z.view(b, c, h // 2, 2, w // 2, 2).permute(0, 2, 4, 1, 3, 5)
    return z.reshape(b, (h // 2) * (w // 2), 4 * c)


def latents(tokens, h, w):
    b, _, c = tokens.shape
    z = tokens.view(b, h // 2, w // 2, c // 4, 2, 2).permute(0, 3, 1, 4, 2, 5)
    return z.reshape(b, c // 4, h, w)


def rows_and_columns(h, w):
    """Position ids (0, row, column) of a grid, as Flux's pipeline fills them."""
    ids = torch.zeros(h, w, 3)
    ids[..., 1] = torch.arange(h)[:, None]
    ids[..., 2] = torch.arange(w)[None, :]
    return ids.reshape(h * w, 3)


# --- the lines of the scripts: network, noisy latents, timesteps, conditions -> noise - data ------


def flux(network, noisy, timesteps, cond):
    y = network(
        hidden_states=patches(noisy),
        timestep=timesteps / 1000,
        guidance=torch.tensor([3.5]).expand(len(noisy)) if "guidance" in cond else None,
        pooled_projections=cond["pooled_projections"],
        encoder_hidden_states=cond["encoder_hidden_states"],
        txt_ids=torch.zeros(L, 3),
        img_ids=rows_and_columns(2, 3),
        return_dict=False,
    )[0]
    return latents(y, 4, 6)


def flux2(network, noisy, timesteps, cond):
    """The latents are patches already: a token is a column of channels."""
    image = [torch.tensor([0, i, j, 0]) for i in range(4) for j in range(6)]
    text = [torch.tensor([0, 0, 0, i]) for i in range(L)]
    y = network(
        hidden_states=noisy.reshape(B, 4, 24).permute(0, 2, 1),
        timestep=timesteps / 1000,
        guidance=torch.full([1], 3.5).expand(B) if "guidance" in cond else None,
        encoder_hidden_states=cond["encoder_hidden_states"],
        txt_ids=torch.stack(text).expand(B, -1, -1),
        img_ids=torch.stack(image).expand(B, -1, -1),
        return_dict=False,
    )[0]
    return y.permute(0, 2, 1).reshape(B, 4, 4, 6)


def qwen_image(network, noisy, timesteps, cond):
    y = network(
        hidden_states=patches(noisy),
        encoder_hidden_states=cond["encoder_hidden_states"],
        encoder_hidden_states_mask=cond["encoder_hidden_states_mask"],
        timestep=timesteps / 1000,
        img_shapes=[(1, 2, 3)] * B,
        return_dict=False,
    )[0]
    return latents(y, 4, 6)


def krea2(network, noisy, timesteps, cond):
    y = network(
        hidden_states=patches(noisy),
        encoder_hidden_states=cond["encoder_hidden_states"],
        timestep=timesteps / 1000,
        position_ids=torch.cat([torch.zeros(L, 3), rows_and_columns(2, 3)]),
        encoder_attention_mask=cond["encoder_attention_mask"],
        return_dict=False,
    )[0]
    return latents(y, 4, 6)


def z_image(network, noisy, timesteps, cond):
    lengths = cond["cap_mask"].sum(1).tolist()
    captions = [text[:length] for text, length in zip(cond["cap_feats"], lengths, strict=True)]
    frames = list(noisy.unsqueeze(2).unbind(0))
    y = network(frames, (1000 - timesteps) / 1000, captions, return_dict=False)[0]
    return -torch.stack(y).squeeze(2)


def lumina2(network, noisy, timesteps, cond):
    """The script counts the share of data, so that its timesteps are 1000 minus these."""
    return -network(
        hidden_states=noisy, timestep=(1000 - timesteps) / 1000, **cond, return_dict=False
    )[0]


def hidream(network, noisy, timesteps, cond):
    y = network(
        hidden_states=noisy,
        encoder_hidden_states_t5=cond["encoder_hidden_states_t5"],
        encoder_hidden_states_llama3=cond["encoder_hidden_states_llama3"].permute(1, 0, 2, 3),
        pooled_embeds=cond["pooled_embeds"],
        timesteps=timesteps,
        return_dict=False,
    )[0]
    return y * -1


def unpacked(network, noisy, timesteps, cond):
    """SD3's and Sana's scripts, and Wan's pipeline."""
    return network(hidden_states=noisy, timestep=timesteps, **cond, return_dict=False)[0]


TEXT = {"encoder_hidden_states": randn(B, L, 16, seed=1)}
POOLED = {"pooled_projections": randn(B, 12, seed=2)}
MASK = torch.arange(L)[None, :] < torch.arange(L, L - B, -1)[:, None]  # 5, 4, 3 and 2 tokens
MASKED = TEXT | {"encoder_attention_mask": MASK}
LAYERS = {
    "encoder_hidden_states_t5": randn(B, L, 16, seed=1),
    "encoder_hidden_states_llama3": randn(B, 3, L, 6, seed=2),
    "pooled_embeds": randn(B, 12, seed=3),
}
FAMILIES = {  # shape of the data, conditions, the script's lines
    "sd3": (IMAGE, TEXT | POOLED, unpacked),
    "sana": (IMAGE, MASKED, unpacked),
    "flux-schnell": (IMAGE, TEXT | POOLED, flux),
    "flux-dev": (IMAGE, TEXT | POOLED | {"guidance": 3.5}, flux),
    "flux2-klein": (IMAGE, TEXT, flux2),
    "flux2-dev": (IMAGE, TEXT | {"guidance": torch.full([B], 3.5)}, flux2),
    "qwen-image": (IMAGE, TEXT | {"encoder_hidden_states_mask": MASK}, qwen_image),
    "z-image": (IMAGE, {"cap_feats": randn(B, L, 16, seed=1), "cap_mask": MASK}, z_image),
    "krea2": (IMAGE, MASKED | {"encoder_hidden_states": randn(B, L, 3, 8, seed=1)}, krea2),
    "lumina2": (IMAGE, MASKED, lumina2),
    "hidream": ((B, 4, 4, 4), LAYERS, hidream),
    "wan": ((B, 4, 3, 4, 6), TEXT, unpacked),
}


def made(family):
    """A network of random weights that all matter: none of them starts at zero."""
    config = json.loads(CONFIGS.read_text())[family]
    kind = getattr(diffusers, config.pop("_class_name"), None)
    if kind is None:
        pytest.skip(f"this diffusers has no network of {family}")
    torch.manual_seed(0)
    network = kind(**config).eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in network.parameters():
            weight += 0.1 * torch.randn(weight.shape, generator=generator)
    return network


FLOW = {"_class_name": "FlowMatchEulerDiscreteScheduler", "shift": 3.0}


@torch.no_grad()
@pytest.mark.parametrize("family", FAMILIES)
def test_velocities_are_those_of_the_training_script(family):
    shape, cond, script = FAMILIES[family]
    network = made(family)
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0)
    indices = torch.tensor([20, 400, 700, 980])
    timesteps, sigmas = scheduler.timesteps[indices], scheduler.sigmas[indices].double()
    x, eps = randn(*shape, seed=3), randn(*shape, seed=4)
    noisy = ((1 - align(sigmas, x)) * x + align(sigmas, x) * eps).float()
    expected = script(network, noisy, timesteps, cond)

    logsnr = 2 * torch.log(1 / sigmas - 1)
    alpha, sigma = (align(scale, x).float() for scale in alpha_sigma(logsnr))
    x_hat, eps_hat = denoiser(network, scheduler)(alpha * x + sigma * eps, logsnr, cond)
    velocity = eps_hat - x_hat
    torch.testing.assert_close(velocity, expected, rtol=0, atol=1e-5)
    losses = [((one - (eps - x)) ** 2).flatten(1).mean(1) for one in (velocity, expected)]
    torch.testing.assert_close(*losses, rtol=1e-5, atol=0)


BAD_CALLS = {  # family, shape of the data, changes of the conditions, what the line names
    "no guidance": ("flux-dev", IMAGE, {"guidance": None}, "guidance"),
    "ids": ("flux-dev", IMAGE, {"txt_ids": torch.zeros(L, 3)}, "txt_ids"),
    "packed": ("flux-dev", (B, 6, 16), {}, "Flux"),
    "odd sides": ("flux-dev", (B, 4, 4, 5), {}, "(4, 4, 5)"),
    "other names": ("wan", (B, 4, 3, 4, 6), {"text": torch.zeros(B)}, "'text'"),
}


@pytest.mark.parametrize(("family", "shape", "changes", "named"), BAD_CALLS.values(), ids=BAD_CALLS)
def test_what_a_network_does_not_take(family, shape, changes, named):
    cond = {name: part for name, part in FAMILIES[family][1].items() if name not in changes}
    cond |= {name: part for name, part in changes.items() if part is not None}
    with pytest.raises(ValueError, match=rf"\A.*{re.escape(named)}.*\Z"):
        denoiser(made(family), FLOW)(randn(*shape), torch.zeros(B), cond)


DIFFERENT = {"wan": (B, 4, 4, 6), "qwen-image": (B, 4, 1, 4, 6), "z-image": (B, 4, 1, 4, 6)}


@torch.no_grad()
@pytest.mark.parametrize("family", DIFFERENT)
def test_an_image_is_a_video_of_one_frame(family):
    _, cond, _ = FAMILIES[family]
    denoise = denoiser(made(family), FLOW)
    z, logsnr = randn(*IMAGE), torch.tensor([-3.0, -1.0, 0.5, 4.0])
    for one, other in zip(
        denoise(z, logsnr, cond), denoise(z.unsqueeze(2), logsnr, cond), strict=True
    ):
        torch.testing.assert_close(one.unsqueeze(2), other, rtol=0, atol=1e-6)


@torch.no_grad()
@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("family", ["sd", "sdxl"])
def test_unets_regress_the_target_of_the_training_script(family, prediction):
    """Noise at whole timesteps; SD 2 predicts v, SDXL has two more conditions in a dict."""
    network = made(family)
    scheduler = diffusers.DDPMScheduler(
        beta_schedule="scaled_linear",
        beta_start=0.00085,
        beta_end=0.012,
        prediction_type=prediction,
    )
    scheduler.alphas_cumprod = (1 - scheduler.betas.double()).cumprod(0)  # float32 is off by 1e-4
    timesteps = torch.tensor([3, 250, 600, 990])
    latents, noise = randn(B, 4, 4, 4, seed=3), randn(B, 4, 4, 4, seed=4)
    text = TEXT["encoder_hidden_states"]
    added = {"time_ids": torch.full((B, 6), 64.0), "text_embeds": randn(B, 12, seed=2)}
    added = {"added_cond_kwargs": added} if family == "sdxl" else {}
    noisy = scheduler.add_noise(latents.double(), noise.double(), timesteps).float()
    expected = network(noisy, timesteps, text, **added, return_dict=False)[0]

    logsnr = torch.logit(scheduler.alphas_cumprod[timesteps])
    alpha, sigma = (align(scale, latents).float() for scale in alpha_sigma(logsnr))
    cond = {"encoder_hidden_states": text, **added}
    x_hat, eps_hat = denoiser(network, scheduler)(alpha * latents + sigma * noise, logsnr, cond)
    found = eps_hat if prediction == "epsilon" else alpha * eps_hat - sigma * x_hat
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


# --- the scripts' scaling of latents: VAE, images -> latents of the network -----------------------


def shifted(vae, images):
    """SD3, Flux, Z-Image."""
    latents = vae.encode(images).latent_dist.mode()
    return (latents - vae.config.shift_factor) * vae.config.scaling_factor


def deterministic(vae, images):
    """Sana."""
    return vae.encode(images).latent * vae.config.scaling_factor


def by_channel(vae, images):
    """Qwen-Image, Krea 2, Wan."""
    latents = vae.encode(images.unsqueeze(2)).latent_dist.mode()
    mean = torch.tensor(vae.config.latents_mean).view(1, vae.config.z_dim, 1, 1, 1)
    std = 1.0 / torch.tensor(vae.config.latents_std).view(1, vae.config.z_dim, 1, 1, 1)
    return ((latents - mean) * std).squeeze(2)


def batch_normalized(vae, images):
    """FLUX.2."""
    z = vae.encode(images).latent_dist.mode()
    b, c, h, w = z.shape
    z = z.view(b, c, h // 2, 2, w // 2, 2).permute(0, 1, 3, 5, 2, 4)
    z = z.reshape(b, c * 4, h // 2, w // 2)
    mean = vae.bn.running_mean.view(1, -1, 1, 1)
    return (z - mean) / torch.sqrt(vae.bn.running_var.view(1, -1, 1, 1) + vae.config.batch_norm_eps)


VAES = {
    "vae": shifted,
    "vae-sana": deterministic,
    "vae-qwen-image": by_channel,
    "vae-wan": by_channel,
    "vae-flux2": batch_normalized,
}


@torch.no_grad()
@pytest.mark.parametrize("family", VAES)
def test_latents_are_those_of_the_training_script(family):
    vae = made(family)
    if family == "vae-flux2":
        vae.bn.running_mean += randn(16, seed=1)
        vae.bn.running_var += torch.rand(16, generator=torch.Generator().manual_seed(2))
    images = randn(2, 3, 32, 32).clamp(-1, 1)
    expected, encode = VAES[family](vae, images), Latents.from_vae(vae)
    torch.testing.assert_close(encode(images), expected, rtol=0, atol=1e-5)
    mean, logvar = encode.moments(images)
    torch.testing.assert_close(mean, expected, rtol=0, atol=1e-5)
    raw = vae.encode(images.unsqueeze(2) if encode.is_video else images)
    raw = raw.latent if family == "vae-sana" else raw.latent_dist.mode()
    noise = torch.randn(raw.shape, generator=torch.Generator().manual_seed(1)).flatten(1, -3)
    sampled = mean + torch.exp(logvar / 2) * pixel_unshuffle(noise, encode.patch)
    found = encode(images, torch.Generator().manual_seed(1))
    torch.testing.assert_close(found, sampled, rtol=0, atol=1e-5)
    decoded = vae.decode(raw).sample.flatten(1, -3)
    torch.testing.assert_close(encode.decode(encode(images)), decoded, rtol=1e-4, atol=1e-4)
