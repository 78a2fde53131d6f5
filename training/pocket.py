"""Trains the pocket models: `python -m training.pocket --preset cpu|gpu`.

The parts, in order: autoencoder, eye (the detector and tiny CLIP that score the others), pocket-dit, pocket-unet,
export. Each goes on from its checkpoint in the output folder, so the same command resumes a run wherever it stopped.
"""

from __future__ import annotations

import argparse
import random
import shlex
import sys
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from hashlib import sha256
from pathlib import Path

import torch
from deadheat.measure.adherence import ASSETS
from diffusers import AutoencoderKL
from torch import nn
from transformers import CLIPTextModelWithProjection, CLIPTokenizer

from . import export, eye, warm
from .autoencoder import AutoencoderPart, AutoencoderShape, autoencoder, whiten
from .denoisers import (
    GUIDANCE,
    STEPS,
    Denoiser,
    DitPart,
    UnetPart,
    adherence_means,
    dit_net,
    generate,
    prompts,
    unet_net,
)
from .loop import Budget, Part, fit, save_grid
from .render import Renderer
from .stream import Stream
from .tokenizer import build

STAGES = ("autoencoder", "eye", "pocket-dit", "pocket-unet", "export")


@dataclass(frozen=True)
class Preset:
    """Sizes of the models, and how long each is trained."""

    side: int
    budgets: dict[str, Budget]
    vae: AutoencoderShape = field(default_factory=AutoencoderShape)
    dit: dict[str, int] = field(
        default_factory=lambda: {"num_layers": 6, "num_attention_heads": 6, "attention_head_dim": 32}
    )
    unet: tuple[int, ...] = (64, 96, 120)
    fresh: float = 1.0
    judged: int = 256
    steps: int = STEPS


PRESETS = {
    "cpu": Preset(
        side=128,
        fresh=0.3,
        budgets={
            "autoencoder": Budget(samples=150_000, batch=16, lr=1.5e-3, average=0.995),
            "eye": Budget(samples=176_000, batch=64, lr=3e-3, flat=0.2, average=0.99, every=120),
            "pocket-dit": Budget(samples=1_000_000, batch=16, lr=2e-3, every=1500),
            "pocket-unet": Budget(samples=1_000_000, batch=16, lr=2e-3, every=1500),
        },
    ),
    "gpu": Preset(
        side=256,
        vae=AutoencoderShape((32, 64, 96, 128)),
        dit={"num_layers": 8, "num_attention_heads": 8, "attention_head_dim": 32},
        unet=(128, 192, 256),
        budgets={
            "autoencoder": Budget(samples=1_500_000, batch=128, lr=2e-3, every=60),
            "eye": Budget(samples=400_000, batch=256, lr=3e-3, flat=0.2, average=0.99, every=60),
            "pocket-dit": Budget(samples=4_000_000, batch=512, lr=2e-3, average=0.999, every=60),
            "pocket-unet": Budget(samples=2_000_000, batch=512, lr=2e-3, average=0.999, every=60),
        },
    ),
    "smoke": Preset(
        side=32,
        vae=AutoencoderShape((4, 4, 8, 8), latents=4),
        dit={"num_layers": 1, "num_attention_heads": 2, "attention_head_dim": 16},
        unet=(16, 32),
        fresh=0.5,
        judged=2,
        steps=1,
        budgets={name: Budget(samples=4, batch=2, lr=1e-3) for name in STAGES[:-1]},
    ),
}


class Workshop:
    """One run: the parts in their order, each built on those before it."""

    def __init__(self, preset: Preset, out: Path, options: argparse.Namespace) -> None:
        self.preset, self.out, self.options = preset, out, options
        self.device = options.device or ("cuda" if torch.cuda.is_available() else "cpu")
        self.init: Path | None = options.init
        self.renderer = Renderer(self.device)
        self.tokenizer: CLIPTokenizer = build()
        out.mkdir(parents=True, exist_ok=True)

    def train(self, stages: list[str]) -> None:
        """Run the named stages."""
        todo: dict[str, Callable[[], object]] = {
            "autoencoder": self.autoencoder,
            "eye": self.eye,
            "pocket-dit": lambda: self._fit(self.dit(), self.init, self.options.teacher),
            "pocket-unet": lambda: self._fit(self.unet(), self.options.init_unet, self.options.teacher),
            "export": self.export,
        }
        for stage in stages:
            torch.manual_seed(random.Random(f"{self.options.seed}/{stage}").getrandbits(60))  # of the first weights
            todo[stage]()

    def autoencoder(self) -> None:
        """Train it, whiten its latents (unless they must stay), and save it."""
        net = warm.earlier_autoencoder(self.init) if self.init else autoencoder(self.preset.vae)
        part = AutoencoderPart(self.renderer, net, self.preset.side, decoder_only=self.init is not None)
        trained = self._fit(part, self.init)
        if not self.init:
            whiten(trained, self.renderer, self.preset.side)
        trained.save_pretrained(self.out / "vae")

    def eye(self) -> None:
        """Train the scorer; the committed one is replaced only on request."""
        net = self._fit(eye.EyePart(self.renderer, self.tokenizer))
        eye.export(net, self.tokenizer, self.out / "pocket-eval")
        if self.options.replace_eye:
            eye.export(net, self.tokenizer, ASSETS)

    def dit(self) -> DitPart:
        """The transformer, begun from the tiny CLIP's text tower, or from an earlier pipeline."""
        return self._dit(self.init, self._teacher())

    def unet(self) -> UnetPart:
        """The UNet, begun from the tiny CLIP's text tower, or from an earlier pipeline."""
        return self._unet(self.options.init_unet, self._teacher() or self._trained_dit())

    def _dit(self, start: Path | None = None, teacher: Denoiser | None = None) -> DitPart:
        vae = self._vae()
        net = dit_net(self.tokenizer, self.preset.dit, vae.config.latent_channels, self.preset.side // 8)
        if start:
            warm.adopt_dit(net, self.tokenizer, start)
        else:
            net["first"].load_state_dict(self._text_tower())
        if self.device == "cuda":
            for block in net["dit"].transformer_blocks:
                block.compile()
        return DitPart(
            net, self._stream(vae), self.preset.side, self.preset.steps, teacher=teacher, begun=start is not None
        )

    def _unet(self, start: Path | None = None, teacher: Denoiser | None = None) -> UnetPart:
        vae = self._vae()
        net = unet_net(self.tokenizer, self.preset.unet, vae.config.latent_channels, self.preset.side // 8)
        net["first"].load_state_dict(self._text_tower())
        if start:
            warm.adopt_unet(net, self.tokenizer, start)
        return UnetPart(
            net, self._stream(vae), self.preset.side, self.preset.steps, teacher=teacher, begun=start is not None
        )

    def _teacher(self) -> Denoiser | None:
        """The pipeline named to learn from."""
        folder = self.options.teacher
        if not folder:
            return None
        return self._unet(folder) if (folder / "unet").exists() else self._dit(folder)

    def _trained_dit(self) -> Denoiser | None:
        """The transformer trained in this folder, for the UNet to learn from."""
        return self._trained(self._dit()) if (self.out / f"{DitPart.name}.pt").exists() else None

    def _trained(self, part: Denoiser) -> Denoiser:
        """The part with the averaged weights of its training in this folder."""
        state = torch.load(self.out / f"{part.name}.pt", map_location=self.device, weights_only=True)
        part.net.load_state_dict(state["average"])
        return part

    def export(self) -> None:
        """Write every trained pipeline, score it, and write its card."""
        kinds = {DitPart: self._dit, UnetPart: self._unet}
        there = [make for kind, make in kinds.items() if (self.out / f"{kind.name}.pt").exists()]
        if not there:
            raise SystemExit(f"there is nothing to export in {self.out}: train pocket-dit or pocket-unet there first")
        for make in there:
            self._export(self._trained(make()))

    def _export(self, part: Denoiser) -> None:
        state = torch.load(self.out / f"{part.name}.pt", map_location=self.device, weights_only=True)
        folder = self.out / "export" / part.name
        pipe = part.pipeline(part.net.eval())
        export.export(pipe, folder)
        words = prompts(self.preset.judged if self.options.judged is None else self.options.judged)
        begun = state.get("begun", {})
        pictures = generate(pipe, words, self.preset.side, self.preset.steps)
        save_grid(pictures[:64], self.out / f"{part.name}-export.png")
        facts = {
            "name": part.name,
            "kind": type(pipe).__name__,
            "side": self.preset.side,
            "command": begun.get("command", "an earlier version of this script"),
            "seed": begun.get("seed", "unknown"),
            "start": f", begun from `{begun['weights'].rpartition(' (')[0]}`" if begun.get("weights") else "",
            "seen": state["seen"],
            "loss": f"{state['smooth']:.4f}",
            "psnr": f"{self._psnr():.1f}",
            "count": len(words),
            "guidance": GUIDANCE,
            "steps": self.preset.steps,
        }
        scores = adherence_means(words, pictures)
        export.card(folder, facts, scores)
        say(f"{part.name}: exported to {folder}, {scores}")

    def _fit(self, part: Part, start: Path | None = None, teacher: Path | None = None) -> nn.Module:
        budget = self.preset.budgets[part.name]
        if self.options.samples is not None:
            budget = replace(budget, samples=self.options.samples)
        begun = {
            "seed": str(self.options.seed),
            "weights": _marked(start),
            "teacher": _marked(teacher),
            "command": shlex.join(["python", "-m", "training.pocket", *_without_stages(self.options.command)]),
        }
        return fit(part, budget, self.out, self.options.seed, say, begun=begun)

    def _stream(self, vae: AutoencoderKL) -> Stream:
        return Stream(self.renderer, vae, self.tokenizer, self.preset.fresh)

    def _vae(self) -> AutoencoderKL:
        """The trained one, or, while its decoder is still trained, the one begun from: their latents are the same."""
        if (self.out / "vae").exists() or not self.init:
            return AutoencoderKL.from_pretrained(self.out / "vae", local_files_only=True)
        return warm.earlier_autoencoder(self.init)

    @torch.no_grad()
    def _psnr(self) -> float:
        part = AutoencoderPart(self.renderer, self._vae(), self.preset.side, decoder_only=True)
        return part.show(part.net.eval())[0]["psnr"]

    def _text_tower(self) -> dict[str, torch.Tensor]:
        """Of the eye trained in this folder, or else of the committed one."""
        if not (self.out / "eye.pt").exists():
            return CLIPTextModelWithProjection.from_pretrained(ASSETS / "text", dtype=torch.float32).state_dict()
        state = torch.load(self.out / "eye.pt", map_location=self.device, weights_only=True)["average"]
        return {name.removeprefix("text."): value for name, value in state.items() if name.startswith("text.")}


def _marked(folder: Path | None) -> str:
    """Name a folder of weights so that others in the same place are told from them."""
    if folder is None:
        return ""
    mark = sha256()
    for file in sorted(folder.rglob("*.safetensors")):
        mark.update(file.read_bytes())
    return f"{folder} ({mark.hexdigest()[:12]})"


def _counted(text: str) -> int:
    if not (text.isdecimal() and int(text) > 0):
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number above 0")
    return int(text)


def _folder(text: str) -> Path:
    if not (Path(text) / "model_index.json").is_file():
        raise argparse.ArgumentTypeError(f"{text!r} is no folder of a pipeline")
    return Path(text)


def _without_stages(command: list[str]) -> list[str]:
    """The command that makes the weights from the start, whichever of its stages ran just now."""
    if "--stage" not in command:
        return command
    at = command.index("--stage")
    rest = command[at + 1 :]
    return command[:at] + rest[next((i for i, word in enumerate(rest) if word not in STAGES), len(rest)) :]


def say(line: str) -> None:
    """Progress, at once."""
    print(line, flush=True)


def main(command: list[str]) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m training.pocket", description=__doc__)
    parser.add_argument("--preset", choices=PRESETS, default="cpu")
    parser.add_argument("--stage", choices=STAGES, nargs="+", default=list(STAGES), help="only these (default: all)")
    parser.add_argument("--out", type=Path, default=Path(".checkpoints/pocket"), help="checkpoints and exports")
    parser.add_argument("--init", type=_folder, help="a pocket-dit folder to begin from; its latents are kept")
    parser.add_argument(
        "--init-unet", type=_folder, help="a pocket-unet folder to begin from, trained on the same latents"
    )
    parser.add_argument(
        "--teacher",
        type=_folder,
        help="a pocket pipeline to learn from (default: for pocket-unet, OUT's own pocket-dit)",
    )
    parser.add_argument("--samples", type=_counted, help="train for this many samples instead of the preset's")
    parser.add_argument("--judged", type=_counted, help="score exports on this many prompts instead of the preset's")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", help="default: a GPU if there is one")
    parser.add_argument("--threads", type=_counted, default=1, help="of the CPU")
    parser.add_argument("--replace-eye", action="store_true", help="write the trained eye over assets/pocket-eval")
    options = parser.parse_args(command)
    if str(options.device).startswith("cuda") and not torch.cuda.is_available():
        parser.error(f"--device is {options.device}, and there is no GPU that torch can use")
    options.command = command
    torch.set_num_threads(options.threads)
    Workshop(PRESETS[options.preset], options.out, options).train(options.stage)


if __name__ == "__main__":
    main(sys.argv[1:])
