"""No tool: the pass itself (its ratio to itself shows the noise), and the least that hooks cost."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from workload import Cell, Tool, plain_pass, run


def bare_hooks(model: Any, tokens: Tensor, _: Path) -> None:
    """Per-sample gradients of a plain pass, made and dropped."""
    inputs: dict[Any, Tensor] = {}
    last: dict[Any, Tensor] = {}

    def keep(module: Any, args: Any, output: Tensor) -> None:
        inputs[module] = args[0].detach()
        output.register_hook(lambda grad: multiply(module, grad))

    def multiply(module: Any, grad: Tensor) -> None:
        last[module] = torch.bmm(grad.transpose(1, 2), inputs.pop(module))

    linears = [m for name, m in model.named_modules() if name.endswith(".default")]
    handles = [m.register_forward_hook(keep) for m in linears if isinstance(m, torch.nn.Linear)]
    plain_pass(model, tokens)
    for handle in handles:
        handle.remove()


if __name__ == "__main__":
    cells = {"plain": Cell(plain_pass), "bare hooks": Cell(bare_hooks)}
    run(Tool("torch", lambda tokens: tokens, cells))
