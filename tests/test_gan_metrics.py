"""What the GAN is measured by: distances against closed forms and second computations, poses of real images."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import scipy.linalg
import torch
from accelerate import Accelerator
from gan_runs import Colours, tiny_gan, write_images
from torch import Tensor, nn

from autolink.data import open_data
from autolink.errors import UserError
from autolink_apps.gan import metrics
from autolink_apps.gan.metrics import Distances, frechet_distance, kernel_distance, precision_recall


def white(count: int, size: int) -> Tensor:
    """Features (count, size) whose mean is exactly 0 and whose covariance is exactly the identity."""
    x = torch.randn(count, size, dtype=torch.float64)
    x = x - x.mean(0)
    return x @ torch.linalg.inv(torch.linalg.cholesky(x.T @ x / (count - 1))).T


def test_frechet_distance_is_the_closed_form_of_gaussians() -> None:
    x, scale, shift = white(50, 4), torch.tensor([0.5, 1.0, 2.0, 3.0]), torch.tensor([1.0, 0.0, -2.0, 0.5])
    expected = shift.square().sum() + (scale - 1).square().sum()  # commuting covariances: Σ (σ₁ − σ₂)²
    assert frechet_distance(x, x * scale + shift) == pytest.approx(expected.item(), rel=1e-9)
    assert frechet_distance(x, x.flip(0)) == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize(("count", "size"), [(60, 8), (6, 20)])
def test_frechet_distance_by_a_matrix_square_root(count: int, size: int) -> None:
    """Also with fewer images than features, where covariances are singular."""
    real = torch.randn(count, size, dtype=torch.float64) @ torch.randn(size, size, dtype=torch.float64)
    fake = torch.randn(count + 1, size, dtype=torch.float64) + 0.3
    one, two = np.cov(real.numpy().T), np.cov(fake.numpy().T)
    root = scipy.linalg.sqrtm(one @ two)
    shift = (real.mean(0) - fake.mean(0)).square().sum().item()
    expected = shift + np.trace(one + two - 2 * root.real)
    assert frechet_distance(real, fake) == pytest.approx(expected, rel=1e-4)


class Pixels(nn.Module):
    num_features = 12

    def forward(self, images: Tensor) -> Tensor:
        return images.flatten(1).double()


def test_frechet_distance_is_torchmetrics_fid() -> None:
    fid = pytest.importorskip("torchmetrics.image.fid")
    library = fid.FrechetInceptionDistance(Pixels(), input_img_size=(3, 2, 2)).set_dtype(torch.float64)
    real, fake = (torch.randint(0, 256, (count, 3, 2, 2), dtype=torch.uint8) for count in (40, 50))
    library.update(real, real=True)
    library.update(fake, real=False)
    found = frechet_distance(real.flatten(1), fake.flatten(1))
    assert library.compute().item() == pytest.approx(found, rel=1e-4)


def test_kernel_distance_is_the_mean_over_all_pairs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics, "ROWS", 3)
    real, fake = torch.randn(7, 5, dtype=torch.float64), torch.randn(8, 5, dtype=torch.float64) + 0.5

    def kernel(x: Tensor, y: Tensor) -> float:
        return float((x @ y / 5 + 1) ** 3)

    def within(points: Tensor) -> float:
        values = [kernel(a, b) for i, a in enumerate(points) for j, b in enumerate(points) if i != j]
        return sum(values) / len(values)

    between = [kernel(a, b) for a in real for b in fake]
    expected = within(real) + within(fake) - 2 * sum(between) / len(between)
    assert kernel_distance(real, fake) == pytest.approx(expected, rel=1e-9)


def test_kernel_distance_is_unbiased() -> None:
    torch.manual_seed(1)
    draws = [kernel_distance(torch.randn(20, 3), torch.randn(20, 3)) for _ in range(300)]
    assert min(draws) < 0 < max(draws)
    assert abs(np.mean(draws)) < 4 * np.std(draws) / 300**0.5


def test_precision_and_recall_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics, "ROWS", 2)
    real = torch.tensor([0.0, 1.0, 2.0, 3.0, 4.0])[:, None]  # third neighbours at 3, 2, 2, 2, 3
    fake = torch.tensor([0.5, 0.6, 0.7, 0.8, 9.0])[:, None]  # at 0.3, 0.2, 0.2, 0.3, 8.4
    assert precision_recall(real, fake) == pytest.approx(
        (0.8, 0.8)
    )  # 9 is near no real one; 1 to 4 are within 8.4 of it
    far = torch.tensor([0.5, 0.6, 0.7, 0.8])[:, None]
    assert precision_recall(real, far) == pytest.approx((1.0, 0.2))  # 1 lies within 0.3 of 0.8; 0 does not of 0.5
    beside = torch.tensor([6.6, 6.7, 6.8, 9.0])[:, None]  # within 3, the third neighbour, of 4; not 9
    assert precision_recall(real, beside) == pytest.approx((0.75, 0.0))


@pytest.fixture
def data(tmp_path: Path) -> object:
    return open_data(str(write_images(tmp_path / "images", 11)), 32, "train")


def test_distances_compare_the_average_model_with_the_data(data: object) -> None:
    gan = tiny_gan()
    distances = Distances(Accelerator(cpu=True), gan, data, Colours(), 8)
    found = distances.measure()
    images = torch.stack([data[number * len(data) // 8].image for number in range(8)]).float() / 255
    torch.testing.assert_close(distances.real, Colours()(images))
    torch.testing.assert_close(distances.poses, gan.autolink.detect(images).xy)
    assert list(found) == list(Colours.names)
    assert distances.measure() == found
    for parameter in gan.generator.parameters():
        parameter.data.mul_(0.5)
    assert distances.measure() != found


def test_every_process_gets_as_many_images(data: object) -> None:
    shares = [list(metrics.share(data, 9, rank, 2)) for rank in range(2)]
    assert [len(share) for share in shares] == [4, 4]
    alone = list(metrics.share(data, 8, 0, 1))
    assert len(alone) == 8
    streamed = [list(metrics.share(Stream(), 100, rank, 2)) for rank in range(2)]
    assert [[int(image) for image in share] for share in streamed] == [[0, 2, 4], [1, 3, 5]]


class Stream(torch.utils.data.IterableDataset):
    def __iter__(self):
        from autolink.data import Sample

        return (Sample(torch.tensor(number), torch.zeros(0, 2), "", "") for number in range(7))


def test_too_few_images_are_named(tmp_path: Path) -> None:
    data = open_data(str(write_images(tmp_path / "images", 3)), 32, "train")
    with pytest.raises(UserError, match="more than 3"):
        Distances(Accelerator(cpu=True), tiny_gan(), data, Colours(), 8).measure()


def test_inception_comes_from_the_folder_of_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("torchmetrics")
    library = pytest.importorskip("torch_fidelity.feature_extractor_inceptionv3")
    network = library.FeatureExtractorInceptionV3
    with monkeypatch.context() as patch:
        patch.setattr(library, "load_state_dict_from_url", lambda *_, **__: {})
        patch.setattr(network, "load_state_dict", lambda *_: None)
        untrained = network("inception-v3-compat", ["2048"])
    file = tmp_path / metrics.INCEPTION_URL.rsplit("/", 1)[1]
    torch.save(untrained.state_dict(), file)
    monkeypatch.setenv("AUTOLINK_WEIGHTS", str(tmp_path))
    features = metrics.open_features("auto", torch.device("cpu"))
    assert features.names == ("fid", "kid", "precision", "recall")
    assert features(torch.rand(2, 3, 32, 32)).shape == (2, 2048)
    file.write_bytes(b"not weights")
    with pytest.raises(UserError, match="does not hold the Inception weights"):
        metrics.open_features("inception", torch.device("cpu"))


def test_without_inception_distances_have_names_of_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def unreachable(*_, **__) -> None:
        raise OSError("no network")

    def no_squeezenet() -> None:
        raise UserError("the squeezenet weights are not on this machine")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setenv("AUTOLINK_WEIGHTS", str(tmp_path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", unreachable)
    with pytest.raises(UserError, match=r"weights-inception.*\.pth into"):
        pytest.importorskip("torchmetrics")
        metrics.open_features("inception", torch.device("cpu"))
    monkeypatch.setattr(metrics, "SqueezeNetFeatures", Colours)
    assert isinstance(metrics.open_features("auto", torch.device("cpu")), Colours)
    assert "no FID" in caplog.text
    assert not any("fid" in name for name in metrics.SqueezeNetFeatures.names)
    monkeypatch.setattr(metrics, "SqueezeNetFeatures", no_squeezenet)
    with pytest.raises(UserError, match="--metric-every 0"):
        metrics.open_features("auto", torch.device("cpu"))


def test_pose_error_of_real_images_is_that_of_their_reconstruction(monkeypatch: pytest.MonkeyPatch) -> None:
    autolink, images = tiny_gan().autolink, torch.rand(3, 3, 32, 32)
    error = metrics.real_pose_error(autolink, images)
    assert error > 0
    assert metrics.real_pose_error(autolink, images) == error  # the same patches are visible each time
    kept = []

    def perfect(masked: Tensor, _: Tensor) -> Tensor:
        kept.append((masked != 0).any(1).float().mean().item())
        return images * 2 - 1

    monkeypatch.setattr(autolink.decoder, "forward", perfect)
    assert metrics.real_pose_error(autolink, images) == pytest.approx(0, abs=1e-3)
    assert 0.1 < kept[0] < 0.3  # a fifth of the patches
    mirrored = images.flip(-1)
    monkeypatch.setattr(autolink.decoder, "forward", lambda *_: mirrored * 2 - 1)
    moved = (autolink.detect(mirrored).xy - autolink.detect(images).xy) / 2
    expected = 100 * (moved[..., 0] ** 2 + moved[..., 1] ** 2).sqrt().mean()
    assert metrics.real_pose_error(autolink, images) == pytest.approx(expected.item(), rel=0.02)
