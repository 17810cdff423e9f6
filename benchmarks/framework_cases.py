"""Trainers that are configured by files: their own functions, as in trainer_cases.py."""

import functools
import itertools
import operator
from pathlib import Path
from types import SimpleNamespace as Space
from typing import Any
from unittest import mock

import torch
from diffusers import DDPMScheduler
from foreign import (
    NUM_WEIGHED,
    SIDE,
    STABLE_DIFFUSION,
    Cases,
    Draws,
    draws_of,
    draws_of_steps,
    joined,
    lines,
    run,
    some,
)


def diffusion_pipe(folder: Path, num: int) -> Cases:
    common = vars(run(folder / "utils/common.py"))
    sizes = dict.fromkeys(("flux2", "ernie_image", "ideogram4", "hunyuan_video_15"), 16)
    sizes |= dict.fromkeys(("hunyuan_image", "ltx2"), 32)  # pixels of a latent, else 8
    models = (
        *("flux", "chroma", "sd3", "cosmos_predict2", "qwen_image", "auraflow", "krea2"),
        *("lumina_2", "omnigen2", "hidream", "z_image", "hunyuan-video", "ltx-video", "wan"),
        *sizes,
    )
    methods = ({}, {"sigmoid_scale": 0.7}, {"timestep_sample_method": "uniform"})
    for model, method, shift in some(
        120, models, methods, ({}, {"shift": 2.5}, {"flux_shift": True, "lumina_shift": True})
    ):
        config = {**method, **shift}
        name = model.replace("-", "_")
        path = folder / f"models/{'wan/wan' if model == 'wan' else name}.py"
        config |= {"min_t": 0.1, "max_t": 0.875} if model == "wan" and shift else {}
        names = common | vars(run(path, **common)) | {"timestep_quantile": None, "device": "cpu"}
        names |= dict.fromkeys("hw", SIDE // sizes.get(model, 8))
        names |= {"bs": num, "latents": Space(device="cpu")}
        self = Space(model_config=config)
        first, last = "timestep_sample_method = self", "if shift :="
        if model == "wan":
            self.t_dist = common["get_t_distribution"](config)
            first, last = "t = self.t_dist", "t = sample_t"
        elif model == "ltx-video":
            last = "x_1 = latents"
        t = lines(path, "prepare_inputs", first, last, **names | {"self": self}).t
        yield {"model": {"type": model, **config}, "resolutions": [SIDE]}, draws_of(t)
    path = folder / "models/sdxl.py"
    own = vars(run(path))
    for parts in itertools.product(
        ({}, {"v_pred": True}),
        ({}, {"min_snr_gamma": 5.0}),
        ({}, {"debiased_estimation_loss": False}),
    ):
        config = joined(parts)
        scheduler = DDPMScheduler(**STABLE_DIFFUSION)
        names = {"v_pred": False, "min_snr_gamma": None, "debiased_estimation_loss": None}
        self = Space(**names | config, scheduler=scheduler)
        first = "prepare_scheduler_for_custom_training"
        lines(path, "__init__", first, "if self.v_pred", **own | {"self": self})
        names = own | {"self": self, "bs": num, "device": "cpu", "timestep_quantile": None}
        ends = "min_timestep = 0", "if timestep_quantile"
        step = lines(path, "prepare_inputs", *ends, **names).timesteps

        def weigh(step: Any, names: Any = names) -> Any:
            ends = "if self.min_snr_gamma", "if self.debiased_estimation_loss"
            given = names | {"loss": torch.ones(len(step)), "timesteps": step}
            return lines(path, "loss_fn", *ends, **given).loss

        yield {"model": {"type": "sdxl", **config}}, draws_of_steps(scheduler, step, weigh)


def diffsynth(folder: Path, num: int) -> Cases:
    own = run(folder / "diffsynth/diffusion/flow_match.py").FlowMatchScheduler
    loss = run(folder / "diffsynth/diffusion/loss.py").FlowMatchSFTLoss
    templates = (
        *("FLUX.1", "FLUX.2", "Wan", "LingBot-Video", "Qwen-Image", "Z-Image", "ERNIE-Image"),
        *("ACE-Step", "LTX-2", "Krea-2", "Boogu", "MiniMax-Music3"),
    )
    levels: list[torch.Tensor] = []

    def network(latents: torch.Tensor, **_: Any) -> torch.Tensor:
        levels.append(latents)  # of data 0 and noise 1
        return 0 * latents

    for template, (low, high) in itertools.product(templates, ((0.0, 1.0), (0.1, 0.6))):
        scheduler = own(template)
        scheduler.set_timesteps(1000, training=True)
        pipe = Space(scheduler=scheduler, torch_dtype=torch.bfloat16, device="cpu")
        pipe = Space(**vars(pipe), in_iteration_models=(), model_fn=network)
        ends = {"min_timestep_boundary": low, "max_timestep_boundary": high}
        levels.clear()
        with mock.patch("torch.randn_like", torch.ones_like):
            found = [loss(pipe, input_latents=torch.zeros(1), **ends) for _ in range(num)]
        t, weight = torch.cat(levels), torch.stack(found[:NUM_WEIGHED])
        yield {"template": template, **ends}, Draws(draws_of(t).logsnr, weight.flatten())


def lerobot(folder: Path, num: int) -> Cases:
    policies = folder / "src/lerobot/policies"
    common = vars(run(policies / "common/flow_matching.py"))
    names = {"pi0": "PI0Pytorch", "pi05": "PI05Pytorch", "smolvla": "VLAFlowMatching"}
    names |= {"eo1": "EO1VisionFlowMatchingModel"}
    for policy, alpha, (scale, offset) in itertools.product(
        names, (1.5, 1.0), ((0.999, 0.001), (0.9, 0.05))
    ):
        model = getattr(run(policies / f"{policy}/modeling_{policy}.py", **common), names[policy])
        keys = ("beta_alpha", "beta_beta", "scale", "offset")
        values = (alpha, 1.2, scale, offset)
        config = {f"time_sampling_{k}": v for k, v in zip(keys, values, strict=True)}
        t = model.sample_time(Space(config=Space(**config)), num, "cpu")
        yield {"policy.type": policy} | ({} if policy == "smolvla" else config), draws_of(t)


def torchtitan(folder: Path, num: int) -> Cases:
    path = folder / "torchtitan/models/flux/trainer.py"
    x = torch.zeros(num, 1, 1, 1)
    found = lines(
        path,
        "forward_backward_step",
        "with torch.no_grad",
        "bsz, _",
        self=Space(device="cpu"),
        bsz=num,
        labels=x,
        latents=x,
    )
    yield {"config": "flux_dev"}, draws_of(found.sigmas.flatten())


def automodel(folder: Path, num: int) -> Cases:
    own = run(folder / "nemo_automodel/components/flow_matching/pipeline.py").FlowMatchingPipeline
    samplings = ("logit_normal", "uniform", "mode", "lognorm", "mix", "beta")
    flags = (True, False)
    for sampling, is_shifted, is_weighted, scheme, share in itertools.product(
        samplings, flags, flags, ("linear", "bsmntw"), (0.1, 0.0)
    ):
        config = {
            "timestep_sampling": sampling,
            "use_sigma_noise": is_shifted,
            "use_loss_weighting": is_weighted,
            "loss_weighting_scheme": scheme,
            "mix_uniform_ratio": share,
            "flow_shift": 2.5,
            "logit_mean": 0.4,
            "logit_std": 0.7,
        }
        model = Space(compute_loss=lambda y, target: (y - target) ** 2)
        pipeline = own(model, **config, device=torch.device("cpu"))
        t = torch.cat([pipeline.sample_timesteps(1)[0] for _ in range(num)])

        def weigh(t: Any, pipeline: Any = pipeline) -> Any:
            return pipeline.compute_loss(torch.ones_like(t), 0 * t, t)[0]

        yield {"flow_matching": config}, draws_of(t, weigh)


def fastvideo(folder: Path, num: int) -> Cases:
    package = folder / "fastvideo"
    own = vars(run(package / "training/training_utils.py"))
    model = run(package / "train/models/wan/wan.py", **own).WanModel
    path = package / "models/schedulers/scheduling_flow_match_euler_discrete.py"
    make = run(path, BaseScheduler=object).FlowMatchEulerDiscreteScheduler
    path = package / "train/methods/fine_tuning/finetune.py"
    loss = run(path, F=torch.nn.functional)._compute_finetune_loss_map
    schemes = [{"weighting_scheme": one} for one in ("uniform", "sigma_sqrt", "cosmap")]
    schemes += [{"weighting_scheme": "logit_normal", "logit_mean": 0.3, "logit_std": 0.8}]
    schemes += [{"weighting_scheme": "mode", "mode_scale": one} for one in (1.2, 0.5)]
    for scheme, shift, is_clean in itertools.product(schemes, (1.0, 3.0, 5.0), (False, True)):
        given = {"logit_mean": 0.0, "logit_std": 1.0, "mode_scale": 1.0} | scheme
        self = Space(training_config=Space(model=Space(**given)), noise_scheduler=make(shift=shift))
        steps = model._sample_timesteps(self, num, "cpu", torch.default_generator)
        t = own["get_sigmas"](self.noise_scheduler, "cpu", steps, n_dim=1)
        zero = torch.zeros(())

        def weigh(t: Any, zero: Any = zero, is_clean: bool = is_clean) -> Any:
            found = [
                loss(1 + zero, zero, zero, zero, one, None, precondition_outputs=is_clean)
                for one in t
            ]
            return torch.stack([one["total_loss"] for one in found])

        student = {"_target_": "fastvideo.train.models.wan.WanModel", "flow_shift": shift}
        training = {"model": {**scheme, "precondition_outputs": is_clean}}
        yield {"models": {"student": student}, "training": training}, draws_of(t, weigh)


def ltx(folder: Path, num: int) -> Cases:
    own = run(folder / "packages/ltx-trainer/src/ltx_trainer/timestep_samplers.py").SAMPLERS
    frames, shares = ((512, 512, 25), (960, 544, 49), (1280, 704, 121)), (0.1, 0.0, 0.4)
    for (w, h, f), std, share, eps in itertools.product(frames, (1.0, 0.6), shares, (1e-3, 1e-2)):
        config = {"std": std, "uniform_prob": share, "eps": eps}
        num_tokens = (w // 32) * (h // 32) * ((f - 1) // 8 + 1)
        t = own["shifted_logit_normal"](**config).sample(num, num_tokens)
        source = {"timestep_sampling_params": config}
        yield {**source, "resolution_buckets": f"{w}x{h}x{f}"}, draws_of(t)
    for low, high in ((0.0, 1.0), (0.2, 0.9)):
        config = {"min_value": low, "max_value": high}
        source = {"timestep_sampling_mode": "uniform", "timestep_sampling_params": config}
        yield source, draws_of(own["uniform"](**config).sample(num))


def physicsnemo(folder: Path, num: int) -> Cases:
    """Each example's loss of data 0 without noise, so that its network of output 1 errs by 1."""
    diffusion, examples = folder / "physicsnemo/diffusion", folder / "examples"
    given = vars(run(diffusion / "noise_schedulers/linear_gaussian.py"))
    given |= vars(run(diffusion / "noise_schedulers/edm.py", **given))
    given |= vars(run(diffusion / "noise_schedulers/edm_log_uniform.py", **given))
    given |= vars(run(diffusion / "metrics/losses.py", **vars(run(diffusion / "utils/utils.py"))))
    old = run(diffusion / "metrics/legacy_losses.py")
    inside = run(diffusion / "preconditioners/preconditioners.py")
    constants = {"_sigma_data_channels": 0, "beta_d": 19.9, "beta_min": 0.1, "M": 1000}
    x = torch.zeros(num, 1, 1, 1)
    levels: list[torch.Tensor] = []

    def network(kind: str, sigma_data: float = 0.5) -> Any:
        own = getattr(inside, kind, None)  # CorrDiff's class has it within `forward`
        self = Space(**constants, sigma_data=torch.tensor(sigma_data))
        self._reshape_sigma_data = lambda _: self.sigma_data

        def call(*args: Any, **_: Any) -> torch.Tensor:  # noisy data, conditions, sigma
            levels[:] = [args[-1] if args[-1] is not None else args[1]]
            sigma = levels[0].reshape(-1, 1, 1, 1)
            if own:
                return own.compute_coefficients(self, sigma)[2]
            path, first = diffusion / "preconditioners/legacy.py", "c_skip = self.sigma_data"
            return lines(path, "forward", first, "c_out", self=self, sigma=sigma).c_out

        return call

    def draws(loss: torch.Tensor, logsnr: Any = lambda sigma: -2 * sigma.log()) -> Draws:
        return Draws(logsnr(levels[0].double()).flatten(), loss.flatten()[:NUM_WEIGHED])

    def passed(default: Any = None, **_: Any) -> Any:
        return default

    def decorator(**_: Any) -> Any:
        return lambda one: one

    config = run(
        examples / "weather/stormcast/utils/config.py",
        Field=passed,
        dataclass=decorator,
        model_validator=decorator,
    ).LossConfig
    build = run(examples / "weather/stormcast/utils/loss.py", **given).build_noise_scheduler
    normal = ({}, {"P_mean": 0.4}, {"P_std": 0.7}, {"P_mean": -0.4, "P_std": 1.0})
    weights = ({}, {"sigma_data": 1.5}, {"sigma_data": 0.1})
    uniform = ({}, {"sigma_min": 0.02, "sigma_max": 200.0})
    with mock.patch("torch.randn_like", torch.zeros_like):
        for kind, *parts in itertools.product(
            ({}, {"sigma_distribution": "loguniform"}), normal, weights, uniform
        ):
            cfg = functools.reduce(operator.or_, parts, kind)
            scheduler = build(Space(**{**vars(config), **cfg}))
            net = network("EDMPreconditioner")  # utils/nn.py never gives it a sigma_data
            loss = given["WeightedMSEDSMLoss"](net, scheduler, reduction="none")
            yield {"training": {"loss": {"type": "edm", **cfg}}}, draws(loss(x, 1 + x))
        train = examples / "weather/corrdiff/train.py"
        for (name, mean), std, sigma_data in itertools.product(
            {
                "diffusion": None,
                "patched_diffusion": 0.4,
                "lt_aware_patched_diffusion": -1.2,
            }.items(),
            (None, 0.9),
            (0.5, 0.8),
        ):
            made = lines(
                train,
                *("main", "loss_init_kwargs = {}", "loss_fn = residual_loss"),
                P_mean=mean,
                P_std=std,
                student_t_nu=None,
                residual_loss=old.ResidualLoss,
                regression_net=lambda *_, **__: 0 * x,
                cfg=Space(model=Space(hr_mean_conditioning=True)),
            )
            hp = {"P_mean": mean, "P_std": std, "distribution": "normal"}
            args = {"name": name, "hr_mean_conditioning": True, "model_args.sigma_data": sigma_data}
            loss = made.loss_fn(network("EDMPrecondSuperResolution", sigma_data), x, x)
            yield {"model": args, "training": {"hp": hp}}, draws(loss)
        train = examples / "geophysics/diffusion_fwi/train.py"
        for mean, std, sigma_data in itertools.product((0.0, -1.2), (1.0, 1.4), (0.5, 0.9)):
            cfg = {"P_mean": mean, "P_std": std, "sigma_data": sigma_data}
            made = lines(
                train,
                *("main", "noise_scheduler = EDMNoiseScheduler", "loss_fn = MSEDSMLoss"),
                cfg=Space(noise_schedule=Space(**cfg)),
                sigma_data=sigma_data,
                **given | {"model": network("EDMPreconditioner", sigma_data)},
            )
            made.loss_fn._reduce = lambda loss: loss
            yield {"noise_schedule": cfg}, draws(made.loss_fn(x))
        train = examples / "cfd/flow_reconstruction_diffusion/train.py"
        for precond in ("edm", "vp", "ve", "dfsr", "dfsr_cond"):
            c = Space(network_kwargs=Space(), loss_kwargs=Space())
            cfg = Space(precond=precond)
            lines(train, "main", 'if cfg.precond == "vp"', 'if cfg.precond == "vp"', c=c, cfg=cfg)
            loss = getattr(old, c.loss_kwargs.class_name.split(".")[-1])()
            if precond.startswith("dfsr"):
                output = loss(lambda z, t, _: levels.__setitem__(0, t) or 1 + z, x, None)
                bars = (1 - loss.betas.double()).cumprod(0)
                yield (
                    {"precond": precond},
                    draws(output, lambda t, a=bars: torch.logit(a[t.long()])),
                )
                continue
            kind = c.network_kwargs.class_name.split(".")[-1] + "itioner"
            yield {"precond": precond}, draws(loss(network(kind), x, None))


SOURCES = {
    "diffusion-pipe": diffusion_pipe,
    "diffsynth": diffsynth,
    "lerobot": lerobot,
    "torchtitan": torchtitan,
    "automodel": automodel,
    "fastvideo": fastvideo,
    "ltx": ltx,
    "physicsnemo": physicsnemo,
}
