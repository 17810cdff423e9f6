"""Record what a tree computes, bit for bit, and compare two records: nothing may change in a cut.

    python benchmarks/freeze.py record OUT.json --corpora TREE [PARTS]
    python benchmarks/freeze.py compare OLD.json NEW.json

Both records have to come from one machine, each made by the interpreter of its own tree, with the
losses of one tree (`--corpora`), so that only the library differs. Parts: losses, resumed, numbers,
audits, processes.
"""

import argparse
import hashlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

COMMAND = [sys.executable, "-m", "elbos"]
TWO = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "-m", "--", "elbos"]
NUM_STEPS = 50
BATCH = {"toy": 256, "digits": 128, "fashion-small": 64, "fashion-vit": 64}
SHORT = ["--sampling.num-steps", "2"]


def digest(*tensors: Any) -> str:
    sha = hashlib.sha256()
    for tensor in tensors:
        array = np.ascontiguousarray(getattr(tensor, "detach", lambda tensor=tensor: tensor)())
        sha.update(f"{array.dtype}{array.shape}".encode() + array.tobytes())
    return sha.hexdigest()[:16]


def run(*words: str) -> str:
    done = subprocess.run(words, check=False, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(words)}: {done.stderr[-2000:]}")
    return done.stdout


def training(preset: str, folder: str, batch: int, *more: str, num_steps: int = NUM_STEPS):
    return [
        *("train", preset, "--run", folder, "--batch-size", str(batch), *SHORT, *more),
        *("--num-images", str(num_steps * batch), "--output.log-every", str(batch)),
    ]


def losses(folder: str) -> list[float]:
    lines = map(json.loads, Path(folder, "metrics.jsonl").read_text().splitlines())
    return [line["loss"] for line in lines if "loss" in line]


def weights(folder: str) -> str:
    import elbos

    network = elbos.Run(folder).denoiser.network
    return digest(*(tensor for _, tensor in sorted(network.state_dict().items())))


def record_losses() -> dict[str, Any]:
    numbers = {}
    for preset, batch in BATCH.items():
        run(*COMMAND, *training(preset, preset, batch))
        numbers[preset] = {"losses": losses(preset), "weights": weights(preset)}
    return numbers


def record_processes() -> dict[str, Any]:
    numbers = {}
    for preset, batch in {"toy": 256, "digits": 128}.items():
        run(*TWO, *training(preset, f"{preset}-2", batch))
        numbers[preset] = {"losses": losses(f"{preset}-2"), "weights": weights(f"{preset}-2")}
    words = training("digits", "sharded", 128, "--execution.shard-size", "2")
    run(*TWO, *words)
    numbers["sharded"] = {"losses": losses("sharded"), "weights": weights("sharded")}
    return numbers


def record_resumed() -> dict[str, Any]:
    words = training("digits", "killed", 128, "--output.save-every", "1280", num_steps=100)
    process = subprocess.Popen([*COMMAND, *words], stderr=subprocess.DEVNULL)
    log = Path("killed/metrics.jsonl")
    while not log.exists() or log.read_text().count('"loss"') < 35:
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    run(*COMMAND, *words)
    return {"losses": losses("killed"), "weights": weights("killed")}


def flat(value: Any, where: str = "") -> dict[str, Any]:
    if isinstance(value, dict):
        items = value.items()
    elif isinstance(value, list):
        items = enumerate(value)
    else:
        return {where: value}
    return {k: v for name, item in items for k, v in flat(item, f"{where}/{name}").items()}


def record_numbers() -> dict[str, Any]:
    """Bits/dim, samples and metrics of a model, by the command and from Python."""
    import elbos

    run(*COMMAND, *training("digits", "model", 128, num_steps=200))
    numbers: dict[str, Any] = {}
    few = ["--num-images", "40", "--num-samples", "60", "--ode.num-images", "4", "--json"]
    numbers["evaluate"] = flat(json.loads(run(*COMMAND, "evaluate", "model", *few)))
    for sampler in ("ancestral", "heun", "dpm-solver", "uni-pc"):
        words = ["--num", "8", f"sampler:{sampler}", "--num-steps", "6", "--json"]
        paths = json.loads(run(*COMMAND, "sample", "model", *words))
        arrays = np.load(next(path for path in paths.values() if str(path).endswith(".npz")))
        numbers[f"sample {sampler}"] = digest(arrays["x"] if "x" in arrays else arrays["images"])
    model = elbos.Run("model")
    x, cond = model.dataset.test.x[:24], model.dataset.test.labels[:24]
    x = 2 * x[:].float() / (model.dataset.num_levels - 1) - 1
    numbers["data"] = digest(x, cond)
    validator = elbos.Validator(x, num_levels=17, num_evaluations=4, seed=3)
    result = validator(model.denoiser, cond=cond)
    numbers["validator"] = [result.bits_per_dim, result.standard_error]
    numbers["by level"] = digest(result.by_level) if torch.is_tensor(result.by_level) else None
    numbers["weightings"] = json.loads(run(*COMMAND, "weightings", "--json"))
    return numbers


def summary(audit: Any) -> dict[str, Any]:
    names = ("parameterization", "sigma_data", "coefficient_name", "schedule", "density_kind")
    names += ("num_steps", "process", "is_monotone", "is_weighted_elbo", "verdict", "rising")
    names += ("parameterization_factor", "data_scale", "data_offset", "share_pure_noise")
    names += ("weight_pure_noise", "share_clean", "negative_share", "mass_at_max", "closest")
    return {
        **{name: str(getattr(audit, name)) for name in names},
        "diagnostics": [diagnostic.kind for diagnostic in audit.diagnostics],
        "curves": digest(audit.logsnr, audit.weight, audit.weight_error, audit.density),
        "log_weight": audit.weight.log()[::25].tolist(),
    }


def record_audits(corpora: Path) -> dict[str, Any]:
    sys.path[:0] = [str(corpora / "tests"), str(corpora / "tests/audit")]
    import held_out_losses
    import level_losses
    from audited import X, all_audits

    from elbos import audit

    torch.set_num_threads(1)
    cases = dict(all_audits())
    for name, case in held_out_losses.HELD_OUT.items():
        x = torch.rand(64, *case.shape, generator=torch.Generator().manual_seed(1))
        x = case.low + (1 - case.low) * x
        cases[f"held out/{name}"] = lambda case=case, x=x: audit.probe(case.loss, x, 1000)
    for name, case in level_losses.CASES.items():
        cases[f"levels/{name}"] = lambda case=case: audit.probe(case.loss, X[:, :, :4, :4], 4000)
    numbers = {}
    for i, (name, probe) in enumerate(cases.items()):
        try:
            numbers[name] = summary(probe())
        except Exception as error:  # a refusal is an answer
            numbers[name] = {"refused": type(error).__name__, "why": str(error)[:300]}
        if i % 25 == 0:
            print(f"{i} of {len(cases)} audits", file=sys.stderr, flush=True)
    return numbers


def differences(old: Any, new: Any, where: str = "") -> list[str]:
    if isinstance(old, dict) and isinstance(new, dict):
        names = [*old, *(name for name in new if name not in old)]
        pairs = ((f"{where}/{n}", old.get(n, "absent"), new.get(n, "absent")) for n in names)
        return [line for place, a, b in pairs for line in differences(a, b, place)]
    return [] if old == new else [f"{where}: {str(old)[:200]} -> {str(new)[:200]}"]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("verb", choices=["record", "compare"])
    parser.add_argument("paths", nargs="+", type=Path)
    parser.add_argument("--corpora", type=Path, default=Path(__file__).parents[1])
    parser.add_argument("--parts", nargs="+")
    args = parser.parse_args()
    if args.verb == "compare":
        old, new = (json.loads(path.read_text()) for path in args.paths)
        lines = differences({part: old[part] for part in new}, new)
        sys.exit("\n".join(lines) or None)
    parts = {
        "losses": record_losses,
        "resumed": record_resumed,
        "numbers": record_numbers,
        "processes": record_processes,
        "audits": lambda: record_audits(args.corpora.resolve()),
    }
    out = args.paths[0].resolve()
    record = json.loads(out.read_text()) if out.exists() else {}
    os.environ["OMP_NUM_THREADS"] = "1"
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        for part in args.parts or parts:
            begin = time.perf_counter()
            record[part] = parts[part]()
            out.write_text(json.dumps(record, indent=1))
            print(f"{part}: {time.perf_counter() - begin:.0f} s", file=sys.stderr)


if __name__ == "__main__":
    main()
