"""The same code on a CUDA GPU: run where there is one, skipped elsewhere."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from typer.testing import CliRunner

from helmas_cli.app import app
from helmas_core.bridges.registry import METHODS, build_bridge
from helmas_core.config import BridgeSection
from helmas_core.evaluation.evaluate import evaluate_examples
from helmas_core.handoff.prepare import prepare
from helmas_core.handoff.states import States
from helmas_core.layering import load_config
from helmas_core.models.cache import capture
from helmas_core.models.hardware import resolve_hardware
from helmas_core.models.inject import generate
from helmas_core.models.loading import load_pair
from helmas_core.models.pair import Pair
from helmas_core.progress import Silent
from helmas_core.runs import create_run
from helmas_core.training.loop import Trainer, compile_bridge
from helmas_core.training.session import train_bridge

DEVICE = "cuda"
pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")]
METHODS_HERE = sorted(set(METHODS) - {"prefix"})  # that one is a control, sized by the bridge beside it
ANSWERS = ["train.calibration_items=200", 'train.stages=[{name="one", steps=3, losses={ce=1.0}}]']
QUICK = ["train.calibration_items=128", "train.eval_samples=8", "data.limit=200", "train.checkpoint_every=10"]


def on_gpu(*sets: str) -> tuple[Any, Pair]:
    config = load_config(["lab"], [f"hardware.device={DEVICE}", *sets])
    return config, load_pair(config, resolve_hardware(config))


@pytest.fixture(scope="module")
def gpu_pair() -> Pair:
    return on_gpu()[1]


def ids_of(pair: Pair, *lengths: int) -> tuple[torch.Tensor, torch.Tensor]:
    width = max(lengths)
    ids = torch.randint(1, 200, (len(lengths), width), generator=torch.Generator().manual_seed(0))
    mask = torch.tensor([[0] * (width - n) + [1] * n for n in lengths])
    return ids.to(pair.device), mask.to(pair.device)


def test_the_pair_is_on_the_gpu(gpu_pair: Pair) -> None:
    assert gpu_pair.device.type == gpu_pair.teacher.device.type == DEVICE


@pytest.mark.parametrize("method", METHODS_HERE)
def test_a_bridge_makes_what_it_makes_on_a_cpu(gpu_pair: Pair, method: str, lab_pair: Pair) -> None:
    torch.manual_seed(0)
    section = BridgeSection.model_validate({"method": method})
    bridge = build_bridge(section, gpu_pair).eval()
    if bridge.hidden:
        pytest.skip("reads hidden states, which the training tests cover")
    state, own = (capture(m.model, *ids_of(gpu_pair, 9, 14)) for m in (gpu_pair.teacher, gpu_pair.student))
    for name, tensor in bridge.state_dict().items():  # as if it were fitted: a new one sees states as they are
        if tensor.is_floating_point():
            tensor.copy_(
                tensor + 0.1 * torch.rand_like(tensor) if "std" in name else tensor + 0.1 * torch.randn_like(tensor)
            )
    with torch.no_grad():
        there = bridge(state, own).to("cpu")
        here = build_bridge(section, lab_pair).eval()
        here.load_state_dict({k: v.cpu() for k, v in bridge.state_dict().items()})
        expected = here(state.to("cpu"), own.to("cpu"))
    for ours, theirs in zip(there.keys + there.values, expected.keys + expected.values, strict=True):
        assert theirs.abs().max() > 0.01
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-3)


def test_a_batch_is_its_rows(gpu_pair: Pair) -> None:
    ids, mask = ids_of(gpu_pair, 5, 12, 9)
    cache = capture(gpu_pair.student.model, ids, mask)
    cue, seen = ids_of(gpu_pair, 3, 3, 3)
    together = generate(gpu_pair.student.model, cache, cue, seen, 8).tokens
    for row in range(3):
        alone = generate(gpu_pair.student.model, cache.row(row), cue[row : row + 1], seen[row : row + 1], 8).tokens
        assert alone[0] == together[row]


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_own_is_text_and_the_arms_run(dtype: str) -> None:
    config, pair = on_gpu(f"pair.dtype={dtype}")
    examples = prepare(config, pair, "test", 40, 0, Silent())
    arms = ("student", "teacher", "text", "own")
    found = evaluate_examples(config, pair, None, examples, arms, "test", Silent())["arms"]
    assert found["own"]["accuracy"] == found["text"]["accuracy"] > found["student"]["accuracy"]


def test_gradients_are_finite_at_every_width(gpu_pair: Pair) -> None:
    """cuDNN's attention makes NaN of them at 64, 192, 320 … keys, given a mask and scores under -88."""
    for keys in (256, 320, 384, 576):
        query, key, value = (torch.randn(2, 4, n, 64, device=DEVICE, dtype=torch.bfloat16) for n in (40, keys, keys))
        query[..., 0], key[..., 0] = 1.0, -120 * 8
        query.requires_grad_(True)
        mask = torch.ones(2, 1, 40, keys, dtype=torch.bool, device=DEVICE)
        torch.nn.functional.scaled_dot_product_attention(query, key, value, attn_mask=mask).sum().backward()
        assert query.grad is not None and query.grad.isfinite().all()


@pytest.mark.filterwarnings("ignore:.*script_method:DeprecationWarning")  # torch's own, within torch.compile
@pytest.mark.parametrize("amp", ["off", "bf16", "fp16"])
@pytest.mark.parametrize("compiled", [False, True])
def test_training_learns(amp: str, compiled: bool, tmp_path: Path) -> None:
    sets = [*QUICK, f"train.amp={amp}", f"train.compile={compiled}".lower(), "train.steps=60", "train.log_every=5"]
    config, pair = on_gpu(*sets)
    run = create_run(tmp_path / "run", config)
    train_bridge(config, pair, run, Silent())
    rows = [json.loads(line) for line in run.metrics.read_text().splitlines()]
    ce = [row["ce"] for row in rows if row["event"] == "train"]
    assert ce[-1] < 0.8 * ce[0]


@pytest.mark.parametrize("method", METHODS_HERE)
def test_every_method_takes_a_step(method: str, tmp_path: Path) -> None:
    config, pair = on_gpu(*QUICK, *ANSWERS, "data.dataset=arithmetic")
    config = config.model_copy(update={"bridge": BridgeSection.model_validate({"method": method})})
    if method == "ridge":
        config = config.model_copy(update={"bridge": BridgeSection(method="ridge", max_ratio=9.0)})  # type: ignore[call-arg]
    document = train_bridge(config, pair, create_run(tmp_path / "run", config), Silent())
    assert (tmp_path / "run" / "bridge.safetensors").exists()
    assert document["steps"] == (0 if method == "ridge" else 3)


def test_a_resumed_run_goes_on_from_its_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config, pair = on_gpu(*QUICK, "train.steps=20", "train.eval_samples=0")
    run = create_run(tmp_path / "run", config)
    train_bridge(config, pair, run, Silent())
    whole = load_file(run.bridge)
    run.bridge.unlink()
    shutil.rmtree(max(run.checkpoints.glob("step-*")))
    steps, take = list[int](), Trainer._step
    monkeypatch.setattr(Trainer, "_step", lambda self, step: steps.append(step.overall) or take(self, step))
    train_bridge(config, pair, create_run(run.path, config, resume=True), Silent(), resume=True)
    assert steps == list(range(10, 20))
    for name, tensor in load_file(run.bridge).items():
        torch.testing.assert_close(tensor, whole[name], rtol=1e-3, atol=1e-4)


def test_what_was_read_is_kept_on_disk_and_not_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sets = [*QUICK, "train.steps=4", "train.eval_samples=0", "train.state_gib=0.5", f"train.store={tmp_path / 'store'}"]
    config, pair = on_gpu(*sets)
    passes, once = list[int](), States._run
    monkeypatch.setattr(States, "_run", lambda self, some: passes.append(len(some)) or once(self, some))
    train_bridge(config, pair, create_run(tmp_path / "first", config), Silent())
    assert passes
    passes.clear()
    train_bridge(config, pair, create_run(tmp_path / "second", config), Silent())
    assert not passes


@pytest.mark.filterwarnings("ignore:.*script_method:DeprecationWarning")
def test_a_compiled_bridge_makes_the_same(gpu_pair: Pair) -> None:
    bridge = build_bridge(BridgeSection.model_validate({"projector_input": "neighbourhood"}), gpu_pair).eval()
    state = capture(gpu_pair.teacher.model, *ids_of(gpu_pair, 9, 14))
    with torch.no_grad():
        plain = bridge(state)
        compile_bridge(bridge)
        compiled = bridge(state)
    for ours, theirs in zip(compiled.keys, plain.keys, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-3)


def test_the_teacher_may_stay_on_the_host() -> None:
    config, pair = on_gpu("hardware.teacher_device=cpu")
    assert pair.teacher.model.device.type == "cpu"
    examples = prepare(config, pair, "test", 10, 0, Silent())
    found = evaluate_examples(config, pair, None, examples, ("teacher", "text", "own"), "test", Silent())["arms"]
    assert found["own"]["accuracy"] == found["text"]["accuracy"]


def test_the_commands_run(tmp_path: Path) -> None:
    gpu = ["--profile", "lab", "-s", f"hardware.device={DEVICE}"]
    sets = [part for one in [*QUICK, "train.steps=3"] for part in ("-s", one)]
    run = str(tmp_path / "run")
    bridge = ["--bridge", run, "-s", f"hardware.device={DEVICE}"]
    for command in (
        ["train", *gpu, *sets, "--out", run],
        ["eval", *bridge, "--dataset", "relay", "--limit", "20", "--json"],
        ["chat", *bridge, "--prompt", "Anna put the key in the box."],
        ["inspect-cache", *bridge, "--limit", "4", "--out", run],
        ["baseline", *gpu, "--dataset", "relay", "--limit", "10"],
        ["doctor", *gpu],
    ):
        result = CliRunner().invoke(app, command)
        assert result.exit_code == 0, (command, result.output, result.exception)


@pytest.mark.parametrize("sets", [["data.handoff=latent"], ['pair.more_teachers=["lab:student"]']])
def test_latent_steps_and_several_teachers_train(sets: list[str], tmp_path: Path) -> None:
    config, pair = on_gpu(*QUICK, "train.steps=3", *sets)
    assert train_bridge(config, pair, create_run(tmp_path / "run", config), Silent())["steps"] == 3
