r"""Trainers that are started with many flags: their own functions, for sets of settings.

Each function here takes the folder of a trainer's source and a number of draws, and gives settings
as the adapter reads them, with draws. The trainer's parser reads flags where it has one. A network
of output 1 errs by 1 on a target of 0, so that its loss is the coefficient. Precision is float32.
"""

import argparse
import contextlib
import functools
import itertools
from pathlib import Path
from types import SimpleNamespace as Space
from typing import Any

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
    words,
)

SCHEMES = ("none", "sigma_sqrt", "cosmap", "logit_normal", "mode")
SCHEME = {"logit_mean": 0.3, "logit_std": 0.8, "mode_scale": 1.2}  # of two of them
HEIGHT, WIDTH = 256, 384  # pixels


def kohya(folder: Path, num: int) -> Cases:
    library = folder / "library"
    custom, util = run(library / "custom_train_functions.py"), run(library / "train_util.py")
    own = {"custom_train_functions": custom, "train_util": util}
    for name in ("sd3_train_utils", "flux_train_utils", "lumina_train_util", "anima_train_utils"):
        own[name] = run(library / f"{name}.py")
    sd3, flux, anima = own["sd3_train_utils"], own["flux_train_utils"], own["anima_train_utils"]

    def base() -> argparse.ArgumentParser:
        made = argparse.ArgumentParser()
        util.add_sd_models_arguments(made)
        util.add_training_arguments(made, support_dreambooth=True)
        custom.add_custom_train_arguments(made)
        return made

    train = run(folder / "train_network.py", **own, **vars(custom)).NetworkTrainer
    ranges = ({}, {"min_timestep": 100, "max_timestep": 800})
    v = {"v_parameterization": True}
    for parts in itertools.product(
        (
            *({}, {"v_pred_like_loss": 0.5}, v, {**v, "zero_terminal_snr": True}),
            {**v, "scale_v_pred_loss_like_noise_pred": True},
        ),
        ({}, {"min_snr_gamma": 5.0}),
        ({}, {"debiased_estimation_loss": True}),
        ranges,
    ):
        flags = joined(parts)
        args = base().parse_args(words(flags))
        scheduler = train.get_noise_scheduler(None, args, "cpu")
        x = torch.zeros(num, 1, 1, 1)
        step = util.get_noise_noisy_latents_and_timesteps(args, scheduler, x)[2]

        def weigh(step: Any, args: Any = args, scheduler: Any = scheduler) -> Any:
            one = torch.ones(len(step))
            return train.post_process_loss(None, one, args, step, scheduler)

        yield {"script": "train_network", **flags}, draws_of_steps(scheduler, step, weigh)

    x = torch.zeros(num, 1, HEIGHT // 8, WIDTH // 8)
    samplings = ("sigma", "uniform", "sigmoid", "shift", "flux_shift", "nextdit_shift")
    models = ("flux", "hunyuan_image", "lumina", "anima")
    outputs = ("raw", "additive", "sigma_scaled")
    parsers = {
        model: run(
            folder / f"{model}_train_network.py", train_network=Space(setup_parser=base), **own
        ).setup_parser()
        for model in (*models, "sd3")
    }
    for model, sampling, output, scheme in [
        *some(120, models, samplings, outputs, SCHEMES),
        *itertools.product(("sd3",), (1.0, 2.5), ranges, SCHEMES),
    ]:
        if model == "sd3":
            flags = {"training_shift": sampling, "weighting_scheme": scheme, **output, **SCHEME}
        elif sampling == "nextdit_shift" and model != "lumina":
            continue
        else:
            flags = {"timestep_sampling": sampling, "weighting_scheme": scheme, **SCHEME}
            flags |= {} if model == "anima" else {"model_prediction_type": output}
            flags |= {"sigmoid_scale": 0.7}
            flags |= {"discrete_flow_shift": 2.5} if output != "raw" else {}
        args = parsers[model].parse_args(words(flags))
        if model == "sd3":
            t = sd3.get_noisy_model_input_and_timesteps(args, x, x, "cpu", x.dtype)[2]
        else:
            functions = own["lumina_train_util"] if model == "lumina" else flux
            shift = args.discrete_flow_shift
            scheduler = sd3.FlowMatchEulerDiscreteScheduler(num_train_timesteps=1000, shift=shift)
            draw = functions.get_noisy_model_input_and_timesteps
            t = draw(args, scheduler, x, x, "cpu", x.dtype)[2]

        def weigh(t: Any, args: Any = args, model: str = model, functions: Any = functions) -> Any:
            t, one = t.view(-1, 1, 1, 1), torch.ones(len(t), 1, 1, 1)
            if model == "sd3":
                found = lines(
                    folder / "sd3_train_network.py",
                    *("get_noise_pred_and_target", "model_pred = model_pred * (-sigmas)"),
                    "weighting = sd3_train_utils",
                    model_pred=one,
                    sigmas=t,
                    noisy_model_input=0 * t,
                    args=args,
                    sd3_train_utils=sd3,
                )
                pred, weight = found.model_pred, found.weighting
            elif model == "anima":
                pred, weight = one, anima.compute_loss_weighting_for_anima(args.weighting_scheme, t)
            else:
                pred, weight = functions.apply_model_prediction_type(args, one, 0 * one, t)
            return (pred**2 * (one if weight is None else weight)).flatten()

        source = {"script": f"{model}_train_network", "resolution": f"{HEIGHT},{WIDTH}"}
        yield {**source, **flags}, draws_of(t.flatten(), weigh)


def musubi(folder: Path, num: int) -> Cases:
    source = folder / "src/musubi_tuner"
    times = run(source / "training/timesteps.py")
    utils = run(source / "utils/train_utils.py")
    scheduler = run(source / "modules/scheduling_flow_match_discrete.py")
    scheduler = scheduler.FlowMatchDiscreteScheduler()
    path = source / "training/trainer_base.py"
    trainer = run(path, train_utils=utils, **vars(times)).NetworkTrainer()
    parser = run(source / "training/parser_common.py").setup_parser_common()
    samplings = (
        *("sigma", "uniform", "sigmoid", "shift", "logsnr", "flux_shift", "flux2_shift"),
        *("qwen_shift", "krea2_shift", "ideogram4_shift", "qinglong_flux", "qinglong_qwen"),
    )
    limits = {"min_timestep": 100, "max_timestep": 700}
    spans = ({}, limits, {**limits, "preserve_distribution_shape": True})
    for sampling, scheme, span in some(80, samplings, SCHEMES, spans):
        flags = {"timestep_sampling": sampling, "weighting_scheme": scheme, **span, **SCHEME}
        flags |= {"discrete_flow_shift": 2.5, "sigmoid_scale": 0.7}
        args = parser.parse_args(words(flags))
        pixels = 16 if sampling in ("flux2_shift", "ideogram4_shift") else 8
        x = torch.zeros(num, 1, HEIGHT // pixels, WIDTH // pixels)
        z, steps = trainer.get_noisy_model_input_and_timesteps(
            args, 1 + x, x, None, scheduler, "cpu", x.dtype
        )

        def weigh(t: Any, args: Any = args, steps: Any = steps) -> Any:
            scheme = args.weighting_scheme
            found = times.compute_loss_weighting_for_sd3(
                scheme, scheduler, steps[: len(t)], "cpu", t.dtype
            )
            return torch.ones_like(t) if found is None else found.flatten()

        settings = {"script": "hv_train_network", "resolution": f"{HEIGHT},{WIDTH}", **flags}
        yield settings, draws_of(z[:, 0, 0, 0], weigh)


def onetrainer(folder: Path, num: int) -> Cases:
    modules = folder / "modules"
    mixins, kinds = modules / "modelSetup/mixin", ("TimestepDistribution", "LossWeight")
    own = {kind: getattr(run(modules / f"util/enum/{kind}.py"), kind) for kind in kinds}
    distributions, weights = own.values()
    own |= vars(run(modules / "util/DiffusionScheduleCoefficients.py"))
    noise = run(mixins / "ModelSetupNoiseMixin.py", **own).ModelSetupNoiseMixin
    flow = run(mixins / "ModelSetupFlowMatchingMixin.py").ModelSetupFlowMatchingMixin()
    losses = run(mixins / "ModelSetupDiffusionLossMixin.py", **own).ModelSetupDiffusionLossMixin
    rescale = "rescale_noise_scheduler_to_zero_terminal_snr"
    rescaled = getattr(run(modules / f"util/convert/{rescale}.py"), rescale)

    sd, xl = "STABLE_DIFFUSION_15", "STABLE_DIFFUSION_XL_10_BASE"
    tables = [{"model_type": sd}, {"model_type": xl, "force_v_prediction": True}]
    tables += [{"model_type": "STABLE_DIFFUSION_21"}, {"model_type": sd, rescale: True}]
    of_tables = ("CONSTANT", "P2", "MIN_SNR_GAMMA", "DEBIASED_ESTIMATION")
    shifting = {"FLUX_DEV_1": "Flux", "FLUX_2": "Flux2", "Z_IMAGE": "ZImage", "QWEN": "Qwen"}
    flows = [{"model_type": name, "dynamic_timestep_shifting": True} for name in shifting]
    flows += [{"model_type": name} for name in ("STABLE_DIFFUSION_35", "HUNYUAN_VIDEO", "CHROMA_1")]
    models = [
        *itertools.product(tables, of_tables),
        *itertools.product(flows, ("CONSTANT", "SIGMA")),
    ]
    shapes = (
        *(("UNIFORM", 0.0, 0.0), ("COS_MAP", 0.0, 0.0), ("SIGMOID", 5.0, 0.1)),
        *(("LOGIT_NORMAL", 0.0, 0.0), ("LOGIT_NORMAL", -0.3, 0.4), ("HEAVY_TAIL", 1.0, 0.0)),
        *(("INVERTED_PARABOLA", 7.0, 0.1), ("BETA", 1.5, 1.0), ("BETA", 1.0, 2.0)),
        ("BETA", 2.0, 3.0),
    )
    for shape, shift, (low, high), (model, weight) in some(
        160, shapes, (1.0, 2.5), ((0.0, 1.0), (0.1, 0.8)), models
    ):
        is_flow, kind = model in flows, model["model_type"]
        flags = {"timestep_distribution": shape[0], "loss_weight_fn": weight}
        numbers = {"noising_weight": shape[1], "noising_bias": shape[2], "timestep_shift": shift}
        numbers |= {"min_noising_strength": low, "max_noising_strength": high}
        numbers |= {"loss_weight_strength": 0.8 if weight == "P2" else 5.0}
        off = "mae_strength", "log_cosh_strength", "huber_strength", "vb_loss_strength"
        fixed = dict.fromkeys((*off, "masked_training"), 0)
        fixed |= dict.fromkeys(("mse_strength", "batch_size", "gradient_accumulation_steps"), 1)
        config = Space(
            **numbers | fixed,
            loss_scaler=Space(get_scale=lambda *_, **__: 1),
            timestep_distribution=distributions(shape[0]),
            loss_weight_fn=weights(weight),
        )
        if kind in shifting:
            line = {"base_image_seq_len": 256, "base_shift": 0.5}
            line |= {"max_image_seq_len": 8192 if kind == "QWEN" else 4096}
            line |= {"max_shift": 0.9 if kind == "QWEN" else 1.15}  # of the models' files
            name = f"{shifting[kind]}Model"
            scheduler = Space(noise_scheduler=Space(config=Space(**line)))
            shift = getattr(run(modules / f"model/{name}.py"), name).calculate_timestep_shift(
                scheduler, HEIGHT // 8, WIDTH // 8
            )
        step = (
            noise()
            ._get_timestep_discrete(1000, False, torch.default_generator, num, config, shift)
            .long()
        )
        scheduler = DDPMScheduler(**STABLE_DIFFUSION)
        if rescale in model:
            rescaled(scheduler)
        is_v = kind == "STABLE_DIFFUSION_21" or len(model) > 1

        def weigh(
            _: Any,
            step: Any = step[:NUM_WEIGHED],
            config: Any = config,
            is_flow: bool = is_flow,
            is_v: bool = is_v,
            betas: Any = scheduler.betas,
        ) -> Any:
            one = torch.ones(len(step), 1)
            data = {"loss_type": "target", "predicted": one, "target": 0 * one, "timestep": step}
            data |= {"prediction_type": "v_prediction" if is_v else "epsilon"}
            if is_flow:
                loss = losses()._flow_matching_losses
                return loss({"loss_weight": 1.0}, data, config, "cpu", sigmas=torch.zeros(1000))
            loss = losses()._diffusion_losses
            return loss({"loss_weight": 1.0}, data, config, "cpu", betas=betas)

        source = {**model, **flags, **numbers, "resolution": f"{HEIGHT}x{WIDTH}"}
        if is_flow:
            x = torch.zeros(num, 1)
            t = flow._add_noise_discrete(x, 1 + x, step, torch.zeros(1000))[1]
            yield source, draws_of(t.flatten(), weigh)
        else:
            yield source, draws_of_steps(scheduler, step, weigh)


def simpletuner(folder: Path, num: int) -> Cases:
    helpers = folder / "simpletuner/helpers"
    shift = run(helpers / "models/sd3/pipeline.py").calculate_shift
    own = vars(run(helpers / "training/custom_schedule.py", calculate_shift_flux=shift))
    own |= vars(run(helpers / "training/timestep_distribution.py"))
    own |= vars(run(helpers / "training/min_snr_gamma.py"))
    own |= vars(run(helpers / "models/prediction.py"))
    path = helpers / "models/common.py"
    found = run(path, **own)
    model = found.ModelFoundation.__new__(found.ModelFoundation)
    model.accelerator = Space(device=torch.device("cpu"))
    size = Space(ndim=4, shape=(1, 16, SIDE // 8, SIDE // 8))
    model._get_dataset_timestep_sampling_offset = lambda _: 0.0
    defaults = {"flow_use_uniform_schedule": False, "flow_use_beta_schedule": False}
    defaults |= {"flux_fast_schedule": False, "flow_schedule_auto_shift": False}
    for parts in itertools.product(
        ({"model_family": "flux"}, {"model_family": "qwen_image"}),
        (
            *({"flow_sigmoid_scale": 1.0}, {"flow_sigmoid_scale": 0.7}),
            {"flow_use_uniform_schedule": True},
            {
                "flow_use_beta_schedule": True,
                "flow_beta_schedule_alpha": 2.0,
                "flow_beta_schedule_beta": 3.0,
            },
        ),
        ({"flow_schedule_shift": 3.0}, {"flow_schedule_shift": 0.0}, {"flow_schedule_shift": 1.5}),
        ({}, {"flow_schedule_auto_shift": True}),
    ):
        flags = joined(parts)
        model.config = Space(**defaults | flags)
        path = helpers / "training/default_settings/safety_check.py"
        first = "if args.flow_schedule_shift is not None"
        lines(path, "safety_check", first, first, args=model.config)
        line = {"base_image_seq_len": 256, "base_shift": 0.5}
        is_qwen = flags["model_family"] == "qwen_image"
        line |= {"max_image_seq_len": 8192 if is_qwen else 4096}
        line |= {"max_shift": 0.9 if is_qwen else 1.15}  # of the models' files
        model.noise_schedule = Space(config=Space(**line))
        t = model.sample_flow_sigmas({"latents": torch.zeros(num), "noise": size}, {})[0]
        yield {**flags, "resolution": SIDE}, draws_of(t)
    refiner = {"refiner_training": False, "refiner_training_invert_schedule": False}
    refiner |= {"refiner_training_strength": 0.2}
    bias = {"timestep_bias_portion": 0.25, "timestep_bias_multiplier": 3.0}
    bias |= {"timestep_bias_begin": 200, "timestep_bias_end": 500}
    for family, gamma, strategy, size, part in some(
        60,
        ("sdxl", "sd2x"),
        (0.0, 5.0),
        ("none", "earlier", "later", "range"),
        (1, 4, 7),
        ({},),
    ):
        flags = {**bias, **refiner, **part, "timestep_bias_strategy": strategy}
        config = Space(**flags, snr_gamma=gamma)
        is_v = family == "sd2x"  # by its scheduler file; the trainer makes it end at zero SNR
        kind = {"prediction_type": "v_prediction" if is_v else "epsilon"}
        scheduler = DDPMScheduler(**STABLE_DIFFUSION, **kind, rescale_betas_zero_snr=is_v)
        steps = []
        for _ in range(num // size):
            weights = own["generate_timestep_weights"](config, 1000)
            if size > 1:
                segments = own["segmented_timestep_selection"]
                steps.append(segments(1000, size, weights, config))
            else:
                steps.append(torch.multinomial(weights, 1, replacement=True))

        def weigh(step: Any, config: Any = config, scheduler: Any = scheduler) -> Any:
            one = torch.ones(len(step), 1, 1, 1)
            if not config.snr_gamma:
                return one.flatten()
            return lines(
                helpers / "models/common.py",
                *("loss", "snr = compute_snr", "loss = loss * mse_loss_weights"),
                **own
                | {"loss": one, "model_pred": one, "target": 0 * one, "F": torch.nn.functional},
                self=Space(config=config, noise_schedule=scheduler),
                prepared_batch={"timesteps": step},
            ).loss.flatten()

        source = {"model_family": family, "train_batch_size": size, "snr_gamma": gamma, **flags}
        yield source, draws_of_steps(scheduler, torch.cat(steps), weigh)


def ai_toolkit(folder: Path, num: int) -> Cases:
    tools = folder / "toolkit"
    weights = run(tools / "timestep_weighing/default_weighing_scheme.py")
    flow = run(tools / "samplers/custom_flowmatch_sampler.py", **vars(weights))
    get_sampler = run(tools / "sampler.py", **vars(flow)).get_sampler
    train_config = run(tools / "config_modules.py").TrainConfig
    own = {"value_map": run(tools / "basic.py").value_map}
    own |= {"apply_snr_weight": run(tools / "train_tools.py").apply_snr_weight}
    sd_trainer = folder / "extensions_built_in/sd_trainer/SDTrainer.py"

    def draw(train: Any, model: Any, size: int) -> torch.Tensor:
        """Timesteps of a batch, of a new table."""
        self = {"timer": contextlib.nullcontext, "device_torch": "cpu", "train_config": train}
        self |= {"model_config": Space(refiner_name_or_path=None), "sd": model}
        return lines(
            folder / "jobs/process/BaseSDTrainProcess.py",
            *("process_general_training_batch", "with self.timer('prepare_scheduler')"),
            "with self.timer('convert_timestep_indices",
            **own | {"self": Space(**self), "is_reg": False},
            batch=Space(file_items=range(size)),
            latents=torch.zeros(1, 1, SIDE // 8, SIDE // 8),
        ).timesteps

    def weigh(train: Any, model: Any, step: torch.Tensor) -> torch.Tensor:
        one = torch.ones(len(step), 1, 1, 1)
        given = {"pred": one, "noise_pred": one, "target": 0 * one, "noisy_latents": 0 * one}
        given |= {"batch": Space(latents=0 * one), "timesteps": step, "ignore_snr": False}
        given |= {"self": Space(train_config=train, sd=model), **own, "additional_loss": 0}
        ends = "local_loss_scale = 1.0", "if do_weighted_timesteps"
        loss = lines(sd_trainer, "calculate_loss", *ends, **given).loss.flatten()
        first = "if self.train_config.learnable_snr_gos"
        return lines(sd_trainer, "calculate_loss", first, first, **given, loss=loss).loss

    flat = {"noise_scheduler": "flowmatch"}
    arches = (
        ("flux_shift", "flux"),
        ("shift", "sd3"),
        ("lumina2_shift", "lumina2"),
        ("shift", "zimage"),
    )
    z_image = run(folder / "extensions_built_in/diffusion_models/z_image/z_image.py")
    of_z_image = flow.CustomFlowMatchEulerDiscreteScheduler(**z_image.scheduler_config)
    for (kind, arch), times, target, part in some(
        60,
        (*arches, *((one, "sd3") for one in ("sigmoid", "linear", "weighted", "lognorm_blend"))),
        ({}, {"linear_timesteps": True}, {"linear_timesteps2": True}),
        ({},),
        (
            *({}, {"content_or_style": "content"}, {"content_or_style": "style"}),
            {"min_denoising_steps": 100, "max_denoising_steps": 700},
        ),
    ):
        if kind == "lognorm_blend" and part:
            continue
        flags = {**flat, "timestep_type": kind, **times, **target, **part}
        train = train_config(**flags)
        if arch == "zimage":
            scheduler = of_z_image
        else:
            scheduler = get_sampler("flowmatch", {}, arch={"sd3": "sd"}.get(arch, arch))
        model = Space(noise_scheduler=scheduler, is_flux=arch == "flux", arch=arch, unet=None)
        model = Space(**vars(model), is_multistage=False, x0_pred=False, is_flow_matching=True)
        model.scale_loss = lambda loss: loss
        step = torch.cat([draw(train, model, 40) for _ in range(num // 40)])
        weight = weigh(train, model, step[:NUM_WEIGHED])
        source = {"train": flags, "model": {"arch": arch}, "resolution": SIDE}
        yield source, Draws(draws_of(step / 1000).logsnr, weight)
    for part in ({}, {"min_snr_gamma": 5.0}, {"snr_gamma": 5.0}, {"content_or_style": "style"}):
        flags = {"noise_scheduler": "ddpm", **part}
        train, scheduler = train_config(**flags), get_sampler("ddpm", {})
        model = Space(noise_scheduler=scheduler, is_multistage=False, is_flow_matching=False)
        model.scale_loss = lambda loss: loss
        step = draw(train, model, num)
        weight = functools.partial(weigh, train, model)
        yield {"train": flags}, draws_of_steps(scheduler, step, weight)


SOURCES = {
    "kohya": kohya,
    "musubi": musubi,
    "onetrainer": onetrainer,
    "simpletuner": simpletuner,
    "ai-toolkit": ai_toolkit,
}
