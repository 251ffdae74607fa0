"""Where and how to compute: device, dtype, attention backend, each with its reason."""

from __future__ import annotations

import importlib.util
import os
import time
from dataclasses import dataclass

import torch

from helmas_core import processes
from helmas_core.config import Config, HardwareConfig, PairConfig
from helmas_core.errors import ConfigError, HelmasError
from helmas_core.layering import find_profile, load_config, profile_names, read_toml
from helmas_core.models.heap import keep_freed

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
GIB = 2**30


@dataclass(frozen=True)
class Hardware:
    device: torch.device
    dtype: torch.dtype
    attention: str
    reasons: tuple[str, ...]


def clock(device: torch.device) -> float:
    """Seconds of a clock for differences; on a GPU it waits until all work is done, since kernels run behind Python."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def out_of_memory(error: BaseException) -> bool:
    """Whether `error` says that a GPU or the host has no memory left."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    told = ("can't allocate memory", "out of memory", "bad_alloc")
    return isinstance(error, RuntimeError) and any(words in str(error) for words in told)


def gpu_gib() -> float:
    """Memory of the first GPU in GiB; 0 without one."""
    return torch.cuda.get_device_properties(0).total_memory / GIB if torch.cuda.is_available() else 0.0


def host_gib() -> float:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / GIB


def missing(config: Config) -> str | None:
    """What this machine lacks for `config`, or None."""
    need, have = config.hardware.min_gpu_gib, gpu_gib()
    if (need or config.hardware.device == "cuda") and not have:
        return f"a CUDA GPU{f' with {need:.0f} GiB' if need else ''} (this machine has none)"
    if have < need:
        return f"a GPU with {need:.0f} GiB (this one has {have:.0f})"
    return None


def runnable_profiles() -> list[str]:
    """Shipped profiles of a pair that this machine can run."""
    found = []
    for name in (name for name in profile_names() if "pair" in read_toml(find_profile(name))):
        try:
            if missing(load_config([name])) is None:
                found.append(name)
        except HelmasError:
            continue
    return found


def resolve_hardware(config: Config) -> Hardware:
    """Choose device, dtype and backend, or raise ConfigError naming what is missing and what would run."""
    if lacking := missing(config):
        raise ConfigError(
            f"the profile needs {lacking}",
            where="hardware",
            fix=f"these profiles run here: {', '.join(runnable_profiles())} (helmas … --profile NAME)",
        )
    if config.hardware.threads:
        torch.set_num_threads(config.hardware.threads)
    gpu = torch.cuda.is_available() and config.hardware.device != "cpu"
    device = own_gpu() if gpu else torch.device("cpu")
    if gpu:
        avoid_cudnn_attention()
    else:
        keep_freed()
    dtype, why_dtype = _dtype(config.pair, gpu)
    attention, why_attention = _attention(config.pair, gpu, dtype)
    check_bits(config.pair, gpu)
    check_teacher_device(config.hardware)
    count = processes.count()
    share = f"device {device.type}" + (f", one of {count} processes" if count > 1 else "")
    return Hardware(device, dtype, attention, (share, why_dtype, why_attention))


def avoid_cudnn_attention() -> None:
    """Let sdpa pick another kernel than cuDNN's, which torch 2.11 prefers on Hopper: given a mask and 64, 192, 320 …
    keys, its backward pass makes NaN of scores under -88, which Qwen2.5 has (pytorch issue 196678)."""
    torch.backends.cuda.enable_cudnn_sdp(False)


def own_gpu() -> torch.device:
    """The GPU of this process: one each."""
    place, count = processes.local()
    if count == 1:
        return torch.device("cuda")
    if count > torch.cuda.device_count():
        what = f"{count} processes for {torch.cuda.device_count()} GPU(s)"
        raise ConfigError(what, where="--processes", fix="start as many as there are GPUs, or set hardware.device=cpu")
    return torch.device("cuda", place)


def check_teacher_device(asked: HardwareConfig) -> None:
    """ConfigError for a teacher's device that this machine lacks, and for memory limits without a spread teacher."""
    name, where = asked.teacher_device, "hardware.teacher_device"
    if asked.teacher_memory is not None and name != "auto":
        raise ConfigError(
            "limits for a teacher that is not spread", where="hardware.teacher_memory", fix=f'set {where} = "auto"'
        )
    if name in (None, "auto"):
        return
    known = ["auto", "cpu", *(f"cuda:{index}" for index in range(torch.cuda.device_count()))]
    if name not in known:
        raise ConfigError(f'no device "{name}" here', where=where, fix=f"choose one of {', '.join(known)}")


def check_bits(pair: PairConfig, gpu: bool) -> None:
    """ConfigError for a quantised teacher where bitsandbytes cannot run it."""
    if pair.teacher_bits is None:
        return
    if not gpu:
        fix = "leave the key out, or use a machine with one"
        raise ConfigError("a 4-bit teacher needs a CUDA GPU", where="pair.teacher_bits", fix=fix)
    if importlib.util.find_spec("bitsandbytes") is None:
        fix = 'install the extra: pip install "helmas[quantised]"'
        raise ConfigError("a 4-bit teacher needs bitsandbytes", where="pair.teacher_bits", fix=fix)


def _dtype(pair: PairConfig, gpu: bool) -> tuple[torch.dtype, str]:
    if pair.dtype != "auto":
        return DTYPES[pair.dtype], f"dtype {pair.dtype}, as asked"
    if gpu and torch.cuda.is_bf16_supported():
        return torch.bfloat16, "dtype bf16, since the GPU computes it natively"
    if gpu:
        return torch.float16, "dtype fp16, since the GPU has no bf16"
    return torch.float32, "dtype fp32, exact and safe on a CPU"


def _attention(pair: PairConfig, gpu: bool, dtype: torch.dtype) -> tuple[str, str]:
    if pair.attention not in ("auto", "flash_attention_2"):
        return pair.attention, f"attention {pair.attention}, as asked"
    reason = (
        "there is no GPU"
        if not gpu
        else "flash-attn is not installed (pip install helmas[flash])"
        if importlib.util.find_spec("flash_attn") is None
        else "flash attention needs bf16 or fp16"
        if dtype == torch.float32
        else ""
    )
    if not reason:
        return "flash_attention_2", "attention flash_attention_2, since flash-attn is installed"
    if pair.attention == "flash_attention_2":
        raise ConfigError("flash attention cannot be used", where="pair.attention", fix=f"{reason}; or set it to auto")
    return "sdpa", f"attention sdpa, since {reason}"
