"""Trainings by other people's code and by ours, each as its users start it, at our size.

Every function trains for a number of images on a folder of 16x16 pictures, and returns the averaged
network as a denoiser of ours, with fast samplers of the project's own. Where a project's script
cannot stop after a number of steps, or asks for a GPU, a name of it is replaced; nothing of it is
here. Precision is the project's default for a processor.
"""

import contextlib
import runpy
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import elbos
from elbos.models.samplers import StochasticDPMSolver, grid
from elbos.theory.schedules import EDMSampling

SIZE = 16
LOGSNR_MIN, LOGSNR_MAX = -10.0, 7.824  # of our sampler: of our training, of the preset's grid


@dataclass(frozen=True)
class Job:
    """A training, its length and where it is."""

    code: str
    source: Path | None
    pictures: Path
    folder: Path
    learning_rate: float
    seed: int
    num_images: int

    @property
    def train(self) -> str:
        return str(self.pictures / "train")


@dataclass(frozen=True)
class Trained:
    """An averaged network, what makes a denoiser of another's, and its project's samplers."""

    network: torch.nn.Module
    denoiser: Callable[[], Any] | None
    samplers: dict[str, Callable[[int], Tensor]]
    batch_size: int
    precision: str


@torch.no_grad()
def sample_ours(denoiser: Any, num: int) -> Tensor:
    """Samples of SDE-DPM-Solver++(2M) on EDM's grid to 0.02, with 16 evaluations."""
    ends = {
        "logsnr_min": max(LOGSNR_MIN, getattr(denoiser, "logsnr_min", LOGSNR_MIN)),
        "logsnr_max": min(LOGSNR_MAX, getattr(denoiser, "logsnr_max", LOGSNR_MAX)),
    }
    z = torch.randn(num, 3, SIZE, SIZE)
    return StochasticDPMSolver()(denoiser, z, grid(EDMSampling(**ends), 16))


class Finished(Exception):
    """Raised inside a project's loop after its last step."""


def train_elbos(job: Job, *options: str, network: tuple[str, ...] = ()) -> Trained:
    """`elbos train fashion-small`."""
    sys.argv = [
        *("elbos", "train", "fashion-small", "--precision", "fp32", *options),
        *("--num-images", str(job.num_images), "--seed", str(job.seed)),
        *("--optimizer.learning-rate", str(job.learning_rate), "--run", str(job.folder / "run")),
        *("--optimizer.warmup-images", str(min(10_000, job.num_images // 20))),
        *("data:images", "--data.path", str(job.pictures), "--data.size", str(SIZE), *network),
    ]
    runpy.run_module("elbos", run_name="__main__")
    run = elbos.Run(job.folder / "run")
    samplers = {
        f"SDE-DPM-Solver++(2M), {num}": partial(run.sample, seed=job.seed, num_steps=num)
        for num in (16, 32)
    }
    config = run.config
    return Trained(run.network, None, samplers, config.batch_size, run.precision)


def train_elbos_unet(job: Job, *options: str) -> Trained:
    """The same with the network that diffusers' script gets, and in its precision."""
    network = "network:own", "--network.function", f"{__file__}:wrapped_unet"
    return train_elbos(job, *options, network=network)


def train_elbos_adamw(job: Job) -> Trained:
    """The same with the optimizer and the batch of diffusers' script, too."""
    options = ["--optimizer.no-use-muon", "--optimizer.betas", "0.95", "0.999"]
    options += ["--optimizer.weight-decay", "1e-6", "--batch-size", "16"]
    return train_elbos_unet(job, *options)


def unet() -> Any:
    """The network of diffusers, at our size: two resolutions, with attention at the lower one."""
    from diffusers import UNet2DModel

    return UNet2DModel(
        sample_size=SIZE,
        in_channels=3,
        out_channels=3,
        layers_per_block=2,
        block_out_channels=(32, 64),
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        norm_num_groups=8,  # 32, its default, would normalize every channel alone
    )


class Steps(torch.nn.Module):
    """The network with 1,000 steps even in log-SNR, between the ends of the preset's training."""

    def __init__(self) -> None:
        super().__init__()
        self.unet = unet()

    def forward(self, z: Tensor, logsnr: Tensor, _: Tensor | None = None) -> Tensor:
        """The network's output at the step of a log-SNR."""
        share = (LOGSNR_MAX - logsnr) / (LOGSNR_MAX - LOGSNR_MIN)
        y: Tensor = self.unet(z, timestep=999 * share).sample
        return y


def wrapped_unet(shape: tuple[int, ...], num_classes: int | None) -> torch.nn.Module:
    """The network for `elbos train`."""
    del shape, num_classes
    return Steps()


def train_diffusers(job: Job) -> Trained:
    """The script `train_unconditional.py` of diffusers' examples."""
    from diffusers import (
        DDIMPipeline,
        DDIMScheduler,
        DDPMPipeline,
        DDPMScheduler,
        DPMSolverMultistepScheduler,
        optimization,
        training_utils,
    )

    network = unet()
    network.save_config(job.folder / "network")
    batch_size = 16
    num_steps = job.num_images // batch_size
    scheduler, step = optimization.get_scheduler, training_utils.EMAModel.step

    def stopping(average: Any, parameters: Any) -> None:
        step(average, parameters)
        if average.optimization_step == num_steps:
            average.copy_to(network.parameters())
            raise Finished

    def ending(*words: Any, num_training_steps: int, **settings: Any) -> Any:
        return scheduler(*words, num_training_steps=num_steps, **settings)

    optimization.get_scheduler, training_utils.EMAModel.step = ending, stopping
    sys.argv = [
        *(str(job.source), "--train_data_dir", job.train, "--resolution", str(SIZE)),
        *("--model_config_name_or_path", str(job.folder / "network"), "--use_ema"),
        *("--train_batch_size", str(batch_size), "--num_epochs", "1000"),
        *("--learning_rate", str(job.learning_rate), "--ddpm_num_inference_steps", "1"),
        *("--lr_warmup_steps", str(min(500, num_steps // 20))),
        *("--output_dir", str(job.folder / "out"), "--checkpointing_steps", "1000000"),
    ]
    with contextlib.suppress(Finished):
        runpy.run_path(str(job.source), run_name="__main__")
    levels = DDPMScheduler(num_train_timesteps=1000, beta_schedule="linear")
    network.eval()

    def sampler(pipeline: Any, scheduler: Any, num_steps: int, **settings: Any) -> Any:
        made = pipeline(unet=network, scheduler=scheduler)
        made.set_progress_bar_config(disable=True)

        def sample(num: int) -> Tensor:
            images = made(num, num_inference_steps=num_steps, output_type="np", **settings).images
            return torch.from_numpy(images).movedim(-1, 1) * 2 - 1

        return sample

    ddim = DDIMScheduler.from_config(levels.config)
    solver = DPMSolverMultistepScheduler.from_config(
        levels.config, algorithm_type="sde-dpmsolver++", thresholding=True
    )
    samplers = {
        "DDPM, 50": sampler(DDPMPipeline, levels, 50),
        "DDIM, 50": sampler(DDIMPipeline, ddim, 50, use_clipped_model_output=True),
        "SDE-DPM-Solver++(2M), 25": sampler(DDPMPipeline, solver, 25),
    }
    denoiser = partial(elbos.adapters.diffusers.denoiser, network, levels)
    return Trained(network, denoiser, samplers, batch_size, "fp32")


def train_lucidrains(job: Job) -> Trained:
    """`Trainer` of denoising-diffusion-pytorch."""
    from denoising_diffusion_pytorch import GaussianDiffusion, Trainer, Unet

    diffusion = GaussianDiffusion(
        Unet(dim=32, dim_mults=(1, 2)), image_size=SIZE, timesteps=1000, sampling_timesteps=50
    )
    batch_size = 32
    trainer = Trainer(
        diffusion,
        job.train,
        train_batch_size=batch_size,
        train_lr=job.learning_rate,
        train_num_steps=job.num_images // batch_size,
        augment_horizontal_flip=False,
        ema_update_every=1,
        calculate_fid=False,
        save_and_sample_every=10**9,
        results_folder=str(job.folder / "out"),
    )
    trainer.train()
    averaged = trainer.ema.ema_model.eval()
    network = averaged.model

    def loss(called: Any, x: Tensor) -> Tensor:
        averaged.model = called
        return averaged((x + 1) / 2)

    def denoiser() -> Any:  # with what the project's loss gives the network, as an audit sees it
        found = elbos.audit.probe(loss, torch.rand(64, 3, SIZE, SIZE) * 2 - 1).denoiser(network)
        averaged.model = network
        return found

    def sample(num: int, eta: float) -> Tensor:
        averaged.ddim_sampling_eta = eta
        return averaged.sample(batch_size=num) * 2 - 1

    samplers = {f"DDIM, eta {eta}, 50": partial(sample, eta=eta) for eta in (0, 1)}
    return Trained(network, denoiser, samplers, batch_size, "fp32")


def train_edm(job: Job) -> Trained:
    """`train.py` of a clone of EDM, on the processor."""
    sys.path.insert(0, str(job.source))
    import train
    from generate import edm_sampler
    from torch_utils import misc

    class OneProcess(torch.nn.Module):
        """In the place of DistributedDataParallel, which needs a process group."""

        def __init__(self, module: torch.nn.Module, device_ids: Any) -> None:
            super().__init__()
            self.module = module

        def forward(self, *inputs: Any, **conditions: Any) -> Any:
            return self.module(*inputs, **conditions)

    averages: list[Any] = []
    loop, warmup = train.training_loop.training_loop, {"lr_rampup_kimg": job.num_images / 20_000}
    on_processor = {**warmup, "device": torch.device("cpu")}

    def at_our_size(**settings: Any) -> None:
        settings["network_kwargs"].attn_resolutions = [SIZE // 2]  # the lower one, as of 32x32
        loop(**settings, **on_processor)

    train.training_loop.training_loop = at_our_size
    train.dist.init = torch.cuda.reset_peak_memory_stats = lambda: None
    torch.multiprocessing.set_start_method = lambda method: None
    torch.nn.parallel.DistributedDataParallel = OneProcess
    torch.utils.data.Sampler.__init__ = lambda sampler, dataset=None: None  # as older torch had it
    misc.check_ddp_consistency = averages.append  # called with the average before it is saved
    batch_size = 32
    words = [
        *(f"--outdir={job.folder}", f"--data={job.train}", f"--seed={job.seed}"),
        *("--cbase=24", "--cres=1,2", "--dropout=0", "--augment=0", f"--batch={batch_size}"),
        *(f"--lr={job.learning_rate}", f"--duration={job.num_images / 1e6}"),
    ]
    train.main(words, standalone_mode=False)
    network = averages[-1]

    def sample(num: int, **churn: float) -> Tensor:
        noise = torch.randn(num, 3, SIZE, SIZE)
        return edm_sampler(network, noise, num_steps=18, **churn).float()

    denoiser = partial(elbos.adapters.edm.denoiser, network)
    churn = {"S_churn": 40, "S_min": 0.05, "S_max": 50, "S_noise": 1.003}  # of ImageNet-64
    samplers = {"Heun, 35": sample, "Heun with churn, 35": partial(sample, **churn)}
    return Trained(network, denoiser, samplers, batch_size, "fp32")


TRAININGS = {
    "elbos": train_elbos,
    "elbos-unet": train_elbos_unet,
    "elbos-adamw": train_elbos_adamw,
    "diffusers": train_diffusers,
    "lucidrains": train_lucidrains,
    "edm": train_edm,
}
