"""Training steps of a transformer layer: `python -m benchmarks.training_step --help`.

It times forward, backward and the optimiser's step of an encoder layer (post-norm) and of a
GPT-style block (pre-norm), unfused and fused, with and without dropout. The steps are sampled in
turn in one process. Further providers have dropout at one of the three sites only.
"""

from __future__ import annotations

import torch
from torch import nn

import fused_dropout as fd
from examples.transformer import Block, FusedBlock

from . import steps
from .cases import P
from .devices import DEVICES
from .progress import Progress
from .sizes import QUICK, SIZES

MODULE = "benchmarks.training_step"
SITES = ("attention", "hidden", "residual")


def encoder_layer(width: int, heads: int, p: dict[str, float], fused: bool) -> nn.Module:
    """`p` is {site: probability}."""
    layer = nn.TransformerEncoderLayer(
        width, heads, 4 * width, dropout=0.0, activation="gelu", batch_first=True
    )
    layer.self_attn.dropout, layer.dropout.p = p["attention"], p["hidden"]
    layer.dropout1.p = layer.dropout2.p = p["residual"]
    if fused:
        fd.fuse(layer)
    return layer


def gpt_block(width: int, heads: int, p: dict[str, float], fused: bool) -> nn.Module:
    """`p` is {site: probability}."""
    block = (FusedBlock if fused else Block)(width, heads, 0.0)
    block.attention_p, block.hidden_p, block.residual_p = (p[site] for site in SITES)
    return block


MODELS = {"encoder_layer": encoder_layer, "gpt_block": gpt_block}

_NONE = dict.fromkeys(SITES, 0.0)
_ALL = dict.fromkeys(SITES, P)
PROVIDERS = {
    "unfused, p = 0": (_NONE, False, False),
    f"unfused, p = {P}": (_ALL, False, False),
    f"compiled, p = {P}": (_ALL, False, True),
    f"fused, p = {P}": (_ALL, True, False),
    "fused, p = 0": (_NONE, True, False),
    **{f"unfused, {site} only": ({**_NONE, site: P}, False, False) for site in SITES},
    **{f"fused, {site} only": ({**_NONE, site: P}, True, False) for site in SITES},
}


def make_step(plan: dict, model: str, provider: str, x: torch.Tensor, device) -> steps.Step:
    """Returns a step that computes the gradient of x too, as inside a network."""
    torch.manual_seed(0)
    p, fused, compiled = PROVIDERS[provider]
    layer = MODELS[model](plan["width"], plan["heads"], p, fused).to(x.device).train()
    call = torch.compile(layer) if compiled else layer
    dy = torch.ones_like(x) / x.numel()

    def forward_and_backward():
        with steps.autocast(device, plan["precision"]):
            y = call(x)
        y.backward(dy)

    return steps.Step(layer, forward_and_backward, device, inputs=(x,))


def measure(plan: dict):
    """Yields a row for each model, batch and provider."""
    device = DEVICES[plan["device"]]()
    bar = Progress(total=len(plan["models"]) * len(plan["batches"]) * (plan["samples"] + 1))
    for model in plan["models"]:
        for batch, length in plan["batches"]:
            bar.set_postfix_str(f"{model} {batch}x{length}", refresh=False)
            if any(PROVIDERS[name][2] for name in plan["providers"]):  # something is compiled
                torch.compiler.reset()
            generator = torch.Generator(device.name).manual_seed(0)
            size = (batch, length, plan["width"])
            x = torch.randn(size, device=device.name, generator=generator).requires_grad_()
            providers = {
                name: make_step(plan, model, name, x, device) for name in plan["providers"]
            }
            for row in steps.measure(providers, plan["samples"], bar.update):
                yield {
                    "model": model,
                    "batch": f"{batch}x{length}",
                    "width": plan["width"],
                    "precision": plan["precision"],
                    **row,
                }
    bar.close()


def table(plan: dict, rows: list[dict]) -> str:
    """Formats a table for each model and batch, with ratios to the first provider."""
    blocks = []
    for model, batch in dict.fromkeys((row["model"], row["batch"]) for row in rows):
        block = [row for row in rows if (row["model"], row["batch"]) == (model, batch)]
        size = "width {width}, {heads} heads, {precision}".format(**plan)
        blocks.append(steps.table(f"{model}, batch {batch}, {size}", block))
    return "\n\n".join(blocks)


def _size(text: str) -> tuple[int, int]:
    batch, length = map(int, text.split("x"))
    return batch, length


def main() -> None:
    """Prints the table."""
    parser = steps.parser_of(MODULE, __doc__)
    add = parser.add_argument
    add("--models", nargs="+", choices=MODELS, default=list(MODELS))
    add("--batches", nargs="+", type=_size, metavar="BxT", help="default: the device's")
    add("--providers", nargs="+", choices=PROVIDERS, default=list(PROVIDERS), metavar="NAME")
    args = steps.parse(parser, MODULE)
    layer = (QUICK if args.quick else SIZES[args.device]).layer
    options = ("device", "precision", "models", "providers", "samples")
    plan = {name: getattr(args, name) for name in options}
    plan |= {**layer._asdict(), "batches": args.batches or layer.batches}
    if args.quick:
        plan["samples"] = 3
        plan["providers"] = [name for name in args.providers if not name.startswith("compiled")]
    rows = []
    for row in measure(plan):
        rows.append(row)
        steps.append(args, [row])
    print(table(plan, rows))
    steps.write(args, MODULE, rows)


if __name__ == "__main__":
    main()
