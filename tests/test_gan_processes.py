"""Two processes train one GAN: equal weights, one controller, distances of all images."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from accelerate import Accelerator
from gan_runs import Colours, write_images

from autolink.data import open_data
from autolink_apps.gan import ConditionalGAN
from autolink_apps.gan.metrics import Distances

TWO_PROCESSES = """
import sys
from pathlib import Path
import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
sys.path.insert(0, TESTS)
from gan_runs import Colours
from autolink.adversarial import Discriminator, discriminator_loss, r1_penalty
from autolink_apps.gan import train as training

def loss_of(discriminator, images):
    real, fake = images.clone().requires_grad_(), images.flip(-1)
    real_logits = discriminator(real, full_precision=True)
    return discriminator_loss(real_logits, discriminator(fake)) + 8 * r1_penalty(real_logits, real)

def check_r1_is_averaged(accelerator):
    torch.manual_seed(0)
    images, alone = torch.randn(4, 3, 32, 32), Discriminator(32, 0.1)
    shared = accelerator.prepare(Discriminator(32, 0.1))
    accelerator.unwrap_model(shared).load_state_dict(alone.state_dict())
    loss_of(alone, images).backward()
    half = images.chunk(2)[accelerator.process_index]
    accelerator.backward(loss_of(shared, half))
    for one, two in zip(alone.parameters(), accelerator.unwrap_model(shared).parameters()):
        torch.testing.assert_close(two.grad, one.grad, rtol=1e-4, atol=1e-5)

save = training.save_checkpoint
def save_if_equal(accelerator, output, step, modules, optimizers, states):
    assert accelerator.num_processes == 2
    for name, module in modules.items():
        weights = torch.cat([p.detach().flatten() for p in module.parameters()])
        first, second = accelerator.gather(weights[None])
        assert torch.equal(first, second), name
    (Path(output) / f"equal-{accelerator.process_index}").touch()
    assert gather_object([states]) == [states] * 2
    save(accelerator, output, step, modules, optimizers, states)
training.save_checkpoint = save_if_equal
training.open_features = lambda which, device: Colours()

accelerator = Accelerator()
assert accelerator.num_processes == 2
check_r1_is_averaged(accelerator)
sys.argv = sys.argv[:1] + OPTIONS
training.main()
"""


def test_two_processes_keep_equal_weights(tmp_path: Path) -> None:
    """Also trains an AutoLink first, in two processes, because none is given."""
    images = write_images(tmp_path / "images")
    command_line = ["--data", str(images), "--output", str(tmp_path / "run"), "--perceptual", "pyramid"]
    for name in ("autolink-steps", "steps"):
        command_line += [f"--{name}", "4"]
    for name, value in (
        ("image-size", 32),
        ("width", 0.1),
        ("batch-size", 8),
        ("r1-every", 2),
        ("accumulate", 2),
        ("metric-every", 2),
        ("augment", "ada"),
        ("workers", 0),
    ):
        command_line += [f"--{name}", str(value)]
    script = tmp_path / "two_processes.py"
    options = repr([*command_line, "--mixed-precision", "no"])
    script.write_text(TWO_PROCESSES.replace("OPTIONS", options).replace("TESTS", repr(str(Path(__file__).parent))))
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    environment = {**os.environ, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(
        [*launch, str(script)], env=environment, stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as launched:
        try:
            _, printed = launched.communicate(timeout=300)
        except subprocess.TimeoutExpired:
            os.killpg(launched.pid, signal.SIGKILL)  # with its two processes, which would wait for ever
            raise
    assert launched.returncode == 0, printed[-4000:]
    assert "training one first" in printed
    assert {path.name for path in (tmp_path / "run").glob("equal-*")} == {"equal-0", "equal-1"}
    assert ConditionalGAN.from_pretrained(tmp_path / "run/model.safetensors").metadata["steps"] == 4
    assert (tmp_path / "run/autolink/model.safetensors").is_file()

    lines = [json.loads(line) for line in (tmp_path / "run/log.jsonl").read_text().splitlines()]
    measured = [line for line in lines if "frechet" in line]
    assert [line["step"] for line in measured] == [2, 4]
    data = open_data(str(images), 32, "train")
    gan = ConditionalGAN.from_pretrained(tmp_path / "run/model.safetensors")
    alone = Distances(Accelerator(cpu=True), gan, data, Colours(), 5_000).measure()
    for name, value in alone.items():
        assert measured[-1][name] == pytest.approx(value, abs=1e-5), name
