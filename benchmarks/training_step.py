"""A whole training step of a transformer block: ``python -m benchmarks.training_step --help``.

Forward, backward and the optimiser's step of an encoder layer (post-norm) and of a GPT-style block
(pre-norm), unfused and fused, with and without dropout, in one process, taking turns; and what
each of the three places of dropout costs by itself.
"""

from __future__ import annotations

import argparse
import gc
import json
import sys
from pathlib import Path

import torch
from torch import nn
from tqdm import tqdm

from examples.transformer import Block, FusedBlock, FusedEncoderLayer

from . import allocator, environment
from .cases import P
from .devices import DEVICES
from .report import align
from .timing import summary, take_turns

WIDTH, HEADS = 512, 8
PLACES = ("attention", "hidden", "residual")


def encoder_layer(p: dict[str, float], fused: bool) -> nn.Module:
    """``p`` by place."""
    kind = FusedEncoderLayer if fused else nn.TransformerEncoderLayer
    layer = kind(WIDTH, HEADS, 4 * WIDTH, dropout=0.0, activation="gelu", batch_first=True)
    layer.self_attn.dropout, layer.dropout.p = p["attention"], p["hidden"]
    layer.dropout1.p = layer.dropout2.p = p["residual"]
    return layer


def gpt_block(p: dict[str, float], fused: bool) -> nn.Module:
    """``p`` by place."""
    block = (FusedBlock if fused else Block)(WIDTH, HEADS, 0.0)
    block.attention_p, block.hidden_p, block.residual_p = (p[place] for place in PLACES)
    return block


MODELS = {"encoder_layer": encoder_layer, "gpt_block": gpt_block}

_NONE = dict.fromkeys(PLACES, 0.0)
_ALL = dict.fromkeys(PLACES, P)
PROVIDERS = {
    "unfused, p = 0": (_NONE, False, False),
    f"unfused, p = {P}": (_ALL, False, False),
    f"compiled, p = {P}": (_ALL, False, True),
    f"fused, p = {P}": (_ALL, True, False),
    "fused, p = 0": (_NONE, True, False),
    **{f"unfused, {place} only": ({**_NONE, place: P}, False, False) for place in PLACES},
    **{f"fused, {place} only": ({**_NONE, place: P}, True, False) for place in PLACES},
}


class Step:
    """One provider: a model with its optimiser."""

    def __init__(self, model: str, provider: str, x: torch.Tensor, device):
        torch.manual_seed(0)
        p, fused, compiled = PROVIDERS[provider]
        self.model = MODELS[model](p, fused).to(x.device, x.dtype).train()
        self.call = torch.compile(self.model) if compiled else self.model
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-4)
        self.x, self.device = x, device
        self.dy = torch.ones_like(x) / x.numel()
        self.times: list[float] = []

    def forward_and_backward(self) -> None:
        """Gradients of the parameters, and of x, as within a network."""
        y = self.call(self.x)
        y.backward(self.dy)

    def __call__(self) -> None:
        self.optimizer.zero_grad()
        self.x.grad = None
        self.forward_and_backward()
        self.optimizer.step()

    def sample(self) -> None:
        """Times one step."""
        self.device.settle()
        start = self.device.mark()
        self()
        end = self.device.mark()
        self.times.append(self.device.elapsed_ms(start, end))

    def activation_bytes(self) -> int:
        """The most memory that forward and backward have at a time beyond what was there before.

        The gradients of the parameters are there already.
        """
        self()
        for parameter in self.model.parameters():
            parameter.grad = torch.zeros_like(parameter)
        _, peak, _ = self.device.track(self.forward_and_backward)
        return peak


def measure(plan: dict):
    """Yields a row per model, batch and provider."""
    device = DEVICES[plan["device"]]()
    bar = tqdm(total=len(plan["models"]) * len(plan["batches"]) * (plan["samples"] + 1))
    for model in plan["models"]:
        for batch, length in plan["batches"]:
            bar.set_postfix_str(f"{model} {batch}x{length}", refresh=False)
            torch.compiler.reset()
            generator = torch.Generator(device.name).manual_seed(0)
            size = (batch, length, WIDTH)
            x = torch.randn(size, device=device.name, generator=generator).requires_grad_()
            steps = {name: Step(model, name, x, device) for name in plan["providers"]}
            for step in steps.values():
                step()
                step()
            bar.update()
            gc.collect()
            gc.disable()
            for i, name in enumerate(take_turns(dict.fromkeys(steps, plan["samples"]))):
                steps[name].sample()
                if i % len(steps) == 0:
                    bar.update()
            gc.enable()
            for name, step in steps.items():
                yield {
                    "model": model,
                    "batch": f"{batch}x{length}",
                    "provider": name,
                    "activation_bytes": step.activation_bytes(),
                    **summary(step.times),
                }
    bar.close()


def table(rows: list[dict]) -> str:
    """A block per model and batch; the ratios are to the unfused step without dropout."""
    blocks = []
    for model, batch in dict.fromkeys((row["model"], row["batch"]) for row in rows):
        block = [row for row in rows if (row["model"], row["batch"]) == (model, batch)]
        base = next(iter(block))["median_ms"]
        lines = [("provider", "ms", "p20", "p80", "x first", "difference", "activations, MB")]
        for row in block:
            times = (f"{row[key]:.1f}" for key in ("median_ms", "p20_ms", "p80_ms"))
            difference = row["median_ms"] - base
            megabytes = f"{row['activation_bytes'] / 1e6:.1f}"
            ratio = f"{row['median_ms'] / base:.3f}"
            lines.append((row["provider"], *times, ratio, f"{difference:+.1f}", megabytes))
        blocks.append(f"{model}, batch {batch}, width {WIDTH}, {HEADS} heads\n{align(lines, 1)}")
    return "\n\n".join(blocks)


def _size(text: str) -> tuple[int, int]:
    batch, length = map(int, text.split("x"))
    return batch, length


def main() -> None:
    """The process that the user starts measures nothing; its child has recycled memory."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.training_step", description=__doc__)
    add = parser.add_argument
    add("--device", choices=DEVICES, default="cpu")
    add("--models", nargs="+", choices=MODELS, default=list(MODELS))
    add("--batches", nargs="+", type=_size, metavar="BxT", default=[(16, 128), (4, 512)])
    add("--providers", nargs="+", choices=PROVIDERS, default=list(PROVIDERS), metavar="NAME")
    add("--samples", type=int, default=15)
    add("--quick", action="store_true", help="one small batch, few samples, nothing compiled")
    add("--json", metavar="FILE")
    add("--child", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if not args.child and args.device == "cpu":
        arguments = [*sys.argv[1:], "--child"]
        sys.exit(allocator.run_child("recycled", "benchmarks.training_step", *arguments))
    plan = {name: getattr(args, name) for name in ("device", "models", "batches", "samples")}
    plan["providers"] = args.providers
    if args.quick:
        plan |= {"batches": [(2, 64)], "samples": 3}
        plan["providers"] = [name for name in args.providers if not name.startswith("compiled")]
    if args.device == "cpu":
        allocator.fill_heap(3 << 30)
    rows = list(measure(plan))
    print(table(rows))
    if args.json:
        command = "python -m benchmarks.training_step " + " ".join(sys.argv[1:])
        meta = environment.describe(command.replace(" --child", ""), args.device)
        Path(args.json).write_text(json.dumps({"meta": meta, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
