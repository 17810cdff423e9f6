"""The short help, `elbos VERB -h`: what is needed first, on one screen."""

SHORT = {
    "train": """\
usage: elbos train PRESET [PART:TYPE --PART.OPTION VALUE ...] [OPTIONS]

Train toy, digits, fashion or fashion-small; the same command again resumes.

  --run PATH                       its directory; by default runs/PRESET with
                                   a word for all that was changed
  --num-images INT                 length of the training, in images
  --batch-size INT                 images per step
  --optimizer.learning-rate FLOAT  the peak
  --seed INT                       seed of all that is random
  --config FILE                    in place of PRESET, what --dry-run printed
  --dry-run                        print the whole configuration as JSON

  weighting:TYPE         elbo, sigmoid, edm, min-snr, monotone, own, ...
  schedule:TYPE          adaptive, cosine, normal, flow, ...
  parameterization:TYPE  what is predicted: eps, x, v, score, flow, edm
  data:TYPE              digits, fashion, folder, toy

examples:
  elbos train digits
  elbos train digits weighting:sigmoid --weighting.k 3
  elbos train fashion data:folder --data.root pictures --data.size 32
""",
    "sample": """\
usage: elbos sample RUN [OPTIONS]

Draw samples from a trained run, into a PNG grid and an .npz.

  --num INT         how many samples
  --label INT       class of all of them
  --guidance FLOAT  scale of classifier-free guidance; 1 is none
  --num-steps INT   steps from noise to data
  --seed INT        seed of the noise
  --out PATH        where to write, without ending
  --json            print the paths as JSON

  sampler:TYPE  ancestral, ddim, heun, dpm-solver, stochastic-dpm-solver, ...
  grid:TYPE     edm-sampling, cosine, flow, linear

examples:
  elbos sample runs/digits --num 100
  elbos sample runs/digits --label 7 --guidance 2
  elbos sample runs/digits sampler:heun --num-steps 18
""",
    "evaluate": """\
usage: elbos evaluate RUN... [OPTIONS]

Measure bits/dim, noise levels and sample quality of trained runs; writes
RUN/eval.json and RUN/eval.html. The same command again resumes.

  --num-images INT    images whose likelihood is measured; by default all
  --target-se FLOAT   standard error to be reached, in bits/dim
  --num-samples INT   samples in a set, 0 for no sample quality
  --num-sets INT      sets of samples, for a standard deviation
  --ode.num-images INT  images of the ODE likelihood, 0 for none
  --sweep             sample quality by sampler, grid and evaluations
  --json              print the results as JSON

examples:
  elbos evaluate runs/digits
  elbos evaluate runs/digits --target-se 0.02 --num-sets 3
  elbos evaluate runs/digits runs/digits-elbo
""",
    "compare": """\
usage: elbos compare PRESET [OPTIONS]

Train objectives alike, score them, and write a report with intervals; the same
command again resumes.

  --rows NAME...       built-in objectives, "all", or your own,
                       "mine=V(),Adaptive(),Sigmoid(k=3)"
  --seeds INT...       replicates of every objective
  --minutes FLOAT      training time of each run, which sets its images
  --num-images INT     images of each training, if not by --minutes
  --workers INT        runs at once
  --out PATH           the directory; by default runs/compare-PRESET
  --scoring.num-samples INT  samples in a set
  --ray                on a Ray cluster
  --json               print the report as JSON

examples:
  elbos compare fashion-small --minutes 3
  elbos compare digits --rows iddpm edm "mine=V(),Adaptive(),Sigmoid(k=3)"
  elbos compare digits --seeds 0 1 2 3 4
""",
    "audit": """\
usage: elbos audit TARGET... [OPTIONS]

Find out which weighting a training loss really uses. A target is
FILE.py:FUNCTION, a diffusers scheduler_config.json or its folder, or a recipe
of `elbos weightings`.

  --shape INT...      shape of one sample, needed for a function
  --num-samples INT   how many samples to draw
  --device NAME       device of the data
  --prediction TYPE   of a diffusers configuration: eps, x, v or flow
  --snr-gamma FLOAT   Min-SNR's gamma, of a diffusers training
  --html PATH         write a page, too
  --json              print the result as JSON

examples:
  elbos audit train.py:loss --shape 3 32 32
  elbos audit scheduler_config.json --prediction v --snr-gamma 5
  elbos audit edm sd3 flow --html audit.html
""",
    "weightings": """\
usage: elbos weightings [OPTIONS]

Print what published recipes weigh: monotone or not, and where the weighting
rises.

  --json  print the table as JSON

examples:
  elbos weightings
  elbos weightings --json
""",
}
"""By verb."""


def short_help(verb: str) -> str:
    """The help of a verb, at most 30 lines of 80 characters."""
    page = f"elbos {verb} digits" if verb in ("train", "compare") else f"elbos {verb}"
    return f"{SHORT[verb]}\n`{page} --help` has all options."
