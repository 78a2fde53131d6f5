"""System switches: how and where the same mathematics runs. Each is offered only after a probe that really tries it.

They stand apart from accelerators: they are set once, when a model is loaded, for both sides of a comparison alike.
"""

import importlib.util
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import torch
from diffusers import AutoencoderTiny, PipelineQuantizationConfig
from diffusers.models.attention_dispatch import _AttentionBackendRegistry

from .errors import KnobError, UnsupportedError, nearest
from .families import denoisers, family

CHOICES: dict[str, tuple[str, ...]] = {
    "dtype": ("auto", "float32", "float16", "bfloat16"),
    "memory": ("all-on-device", "model-offload", "group-offload", "sequential-offload"),
    "attention": ("default", "native", "xformers", "flash", "sage"),
    "quantisation": ("none", "fp8-storage", "int8", "nf4"),
}
TINY_AUTOENCODERS = {
    "Stable Diffusion 1.x/2.x": "madebyollin/taesd",
    "Stable Diffusion XL": "madebyollin/taesdxl",
    "Stable Diffusion 3": "madebyollin/taesd3",
    "FLUX.1": "madebyollin/taef1",
}
PACKAGES = {"xformers": "xformers", "flash": "flash_attn", "sage": "sageattention"}


@dataclass(frozen=True)
class System:
    """How and where a pipeline runs.

    Attributes:
        device: "auto", "cpu", "cuda", "cuda:1", "mps".
        dtype: "auto" is float32 on a CPU and bfloat16 elsewhere.
        memory: what stays on the device; the offload modes trade seconds for memory.
        attention: the kernel that computes attention.
        quantisation: how the denoiser's weights are stored; "int8" and "nf4" need bitsandbytes.
        compile_blocks: torch.compile the repeated blocks of the denoiser.
        tiny_autoencoder: decode with a distilled autoencoder.
    """

    device: str = "auto"
    dtype: str = "auto"
    memory: str = "all-on-device"
    attention: str = "default"
    quantisation: str = "none"
    compile_blocks: bool = False
    tiny_autoencoder: bool = False

    def __post_init__(self) -> None:
        """Refuse a word that is no choice.

        Raises:
            KnobError: names the switch, the value and the choices.
        """
        for name in ("device", "dtype"):  # torch's own objects are as good as their names
            if isinstance(value := getattr(self, name), (torch.device, torch.dtype)):
                object.__setattr__(self, name, str(value).removeprefix("torch."))
        for name, choices in CHOICES.items():
            value = getattr(self, name)
            if value not in choices:
                raise KnobError(
                    f"{name} is {value!r}, not one of {', '.join(choices)}; {nearest(str(value), choices)}"
                )

    def resolved(self) -> "System":
        """Return the same with "auto" replaced by what this machine has.

        Raises:
            UnsupportedError: a switch whose probe fails here; the message says why.
        """
        device = self.device if self.device != "auto" else best_device()
        dtype = self.dtype if self.dtype != "auto" else ("float32" if device == "cpu" else "bfloat16")
        given = System(**{**asdict(self), "device": device, "dtype": dtype})
        for name, why in given.refusals().items():
            raise UnsupportedError(f"{name}={getattr(given, name)} does not work here: {why}")
        return given

    def refusals(self) -> dict[str, str]:
        """Return why switches that are set cannot work on this machine: name -> sentence."""
        asked = {
            "device": probe_device(self.device),
            "memory": probe_memory(self.memory, self.device),
            "attention": probe_attention(self.attention, self.device),
            "quantisation": probe_quantisation(self.quantisation, self.device),
        }
        return {name: why for name, why in asked.items() if why}

    @property
    def torch_dtype(self) -> torch.dtype:
        found: torch.dtype = getattr(torch, self.dtype)
        return found


def best_device() -> str:
    """Return "cuda", "mps" or "cpu"."""
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def probe_device(device: str) -> str | None:
    """Say why *device* cannot be used, or return None."""
    if device == "auto":
        return None
    try:
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        return f"{str(error).splitlines()[0]}; this machine has {best_device()}"
    return None


def probe_memory(memory: str, device: str) -> str | None:
    """Say why a memory mode is of no use, or return None."""
    if memory != "all-on-device" and device in ("cpu", "auto") and best_device() == "cpu":
        return "offloading moves weights between a CPU and an accelerator, and this machine has no accelerator"
    return None


def probe_attention(attention: str, device: str) -> str | None:
    """Say why an attention kernel cannot be used, or return None; really calls xformers' once.

    diffusers accepts xformers on a CPU, where every later call then fails.
    """
    if attention in ("default", "native"):
        return None
    package = PACKAGES[attention]
    if importlib.util.find_spec(package) is None:
        extra = " (pip install 'deadheat[xformers]')" if attention == "xformers" else ""
        return f"the package {package} is not installed{extra}"
    if not device.startswith("cuda") and not (device == "auto" and torch.cuda.is_available()):
        return f"{attention} has kernels for CUDA devices only, and the device is {device}"
    if attention == "xformers":
        from xformers.ops import memory_efficient_attention

        query = torch.zeros(1, 8, 1, 40, device="cuda", dtype=torch.float16)
        try:
            memory_efficient_attention(query, query, query)
        except (NotImplementedError, RuntimeError) as error:
            return f"xformers cannot run here: {str(error).splitlines()[0]}"
    return None


def probe_quantisation(quantisation: str, device: str) -> str | None:
    """Say why a way to store weights cannot be used, or return None."""
    if quantisation in ("int8", "nf4"):
        if importlib.util.find_spec("bitsandbytes") is None:
            return "the package bitsandbytes is not installed (pip install bitsandbytes)"
        if not device.startswith("cuda"):
            return f"bitsandbytes needs a CUDA device, and the device is {device}"
    return None


def load_arguments(system: System) -> dict[str, Any]:
    """Return what ``from_pretrained`` must be told: weights are quantised while they load."""
    backend = {"int8": ("bitsandbytes_8bit", "load_in_8bit"), "nf4": ("bitsandbytes_4bit", "load_in_4bit")}
    if system.quantisation not in backend:
        return {}
    name, flag = backend[system.quantisation]
    config = PipelineQuantizationConfig(
        quant_backend=name, quant_kwargs={flag: True}, components_to_quantize=["transformer", "unet"]
    )
    return {"quantization_config": config}


def apply(pipe: Any, system: System) -> None:
    """Set the switches on a loaded pipeline.

    Raises:
        UnsupportedError: a switch that this family does not obey.
    """
    if system.quantisation == "fp8-storage":
        for network in denoisers(pipe).values():
            network.enable_layerwise_casting(storage_dtype=torch.float8_e4m3fn, compute_dtype=system.torch_dtype)
    if system.tiny_autoencoder:
        _set_tiny_autoencoder(pipe, system)
    if system.attention != "default":
        _set_attention(pipe, system.attention)
    _MEMORY[system.memory](pipe, system)
    if system.compile_blocks:
        _compile_blocks(pipe)


_MEMORY: dict[str, Callable[[Any, System], Any]] = {
    "all-on-device": lambda pipe, system: pipe.to(system.device),
    "model-offload": lambda pipe, system: pipe.enable_model_cpu_offload(device=system.device),
    "group-offload": lambda pipe, system: pipe.enable_group_offload(
        onload_device=torch.device(system.device), offload_type="block_level", num_blocks_per_group=1
    ),
    "sequential-offload": lambda pipe, system: pipe.enable_sequential_cpu_offload(device=system.device),
}


@contextmanager
def _kept_backend() -> Iterator[None]:
    """A backend set on one model becomes the default of the whole process: put that back."""
    before, _ = _AttentionBackendRegistry.get_active_backend()
    try:
        yield
    finally:
        _AttentionBackendRegistry.set_active_backend(before)


def _set_attention(pipe: Any, attention: str) -> None:
    for name, network in denoisers(pipe).items():
        processors = [getattr(module, "processor", None) for module in network.modules()]
        if any(hasattr(processor, "_attention_backend") for processor in processors):
            with _kept_backend():
                network.set_attention_backend(attention)
        elif attention == "xformers":
            network.enable_xformers_memory_efficient_attention()
        elif attention != "native":  # these call PyTorch's own attention and nothing else
            raise UnsupportedError(
                f"attention={attention} has no effect on {type(network).__name__} ({name}): its processors call "
                "PyTorch's attention directly; leave attention at default"
            )


def _set_tiny_autoencoder(pipe: Any, system: System) -> None:
    name = family(pipe).name
    if name not in TINY_AUTOENCODERS:
        raise UnsupportedError(f"no tiny autoencoder is known for {name}; known: {', '.join(TINY_AUTOENCODERS)}")
    try:
        tiny = AutoencoderTiny.from_pretrained(TINY_AUTOENCODERS[name], dtype=system.torch_dtype, use_safetensors=True)
    except OSError as error:
        raise UnsupportedError(
            f"the tiny autoencoder {TINY_AUTOENCODERS[name]} could not be fetched: {str(error).splitlines()[0]}"
        ) from error
    if tiny.config.latent_channels != pipe.vae.config.latent_channels:
        raise UnsupportedError(
            f"this {name} model has latents of its own, which {TINY_AUTOENCODERS[name]} cannot read"
        )
    pipe.vae = tiny


def _compile_blocks(pipe: Any) -> None:
    for network in denoisers(pipe).values():
        stacks = family(pipe).stacks
        if stacks:
            for block in (block for row in stacks for block in getattr(network, row.blocks)):
                block.compile()
        elif getattr(network, "_repeated_blocks", None):
            network.compile_repeated_blocks()
        else:
            raise UnsupportedError(f"{type(network).__name__} names no repeated blocks to compile")
