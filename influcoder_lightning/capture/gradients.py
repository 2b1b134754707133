"""Per-sample LoRA gradients as a by-product of a backward pass that happens anyway.

For a linear with inputs x[b, t] and output gradients d[b, t] the weight gradient of sample b is
``sum_t outer(d[b, t], x[b, t])``. A forward hook leaves a hook on the output of each LoRA linear;
when autograd has d, that hook takes it, with the x that autograd keeps for the linear anyway. Where
autograd keeps tensors elsewhere (gradient checkpointing, activation offloading), or where the
backward pass is one of our own, an identity node behind the linear does the same with autograd's
own saved tensors. So nothing is kept alive that autograd would not keep, modules may be called
several times, and every gradient passes through unchanged.

Only the pass between `begin_backward` and `finish` counts: what `torch.autograd.grad` asks for
inside a training step trains nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from time import perf_counter

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from influcoder_lightning.capture.layers import LoraLinear
from influcoder_lightning.capture.packing import Segments
from influcoder_lightning.capture.taps import Tap, plain_arithmetic, saves_elsewhere
from influcoder_lightning.capture.token_grid import TokenGrid, TokenGrids
from influcoder_lightning.capture.updates import UpdateRule
from influcoder_lightning.errors import CaptureError
from influcoder_lightning.projection import Projector


@dataclass
class CapturedRows:
    """Projected gradients of one micro-batch, still in the unit of the loss that was run backward.

    Attributes:
        sketch: [B, D] float32.
        squared_norm: [B] float64, of the gradient before projection.
        update: the optimizer updates of the same samples, where they were asked for.
    """

    sketch: Tensor
    squared_norm: Tensor
    update: CapturedRows | None = None

    def rescaled(self, factor: Tensor) -> CapturedRows:
        """These rows times ``factor`` [B], in place: in the unit of each sample's own loss."""
        factor = factor.to(self.sketch.device)
        self.sketch *= factor.to(torch.float32)[:, None]
        self.squared_norm *= factor.to(torch.float64) ** 2
        return self


class _Projected:
    """Sketches and norms of a micro-batch's rows, to which one layer after the other is added."""

    def __init__(self, projector: Projector) -> None:
        self._projector = projector
        self.sketch: Tensor | None = None
        self._norms: list[Tensor] = []

    def add(self, linear: LoraLinear, rows: Tensor) -> None:
        if self.sketch is None:
            shape = (len(rows), self._projector.dim)
            self.sketch = torch.zeros(shape, dtype=torch.float32, device=rows.device)
        self._norms.append(torch.linalg.vector_norm(rows, dim=(1, 2)))
        self._projector.add(self.sketch, linear, rows)

    def captured(self, update: CapturedRows | None = None) -> CapturedRows:
        assert self.sketch is not None, "no layer was added"
        squared_norm = torch.stack(self._norms).double().square().sum(0)
        return CapturedRows(self.sketch, squared_norm, update)


class GradientCapture:
    """Hooks on LoRA linears; between `begin` and `finish` they collect one micro-batch's rows.

    Only one layer's unprojected rows live at a time (all calls of a module that is called several
    times in a forward are summed first, because a norm is no sum).

    Args:
        linears: the linears to watch, see `find_lora_linears`.
        projector: turns a layer's gradient rows into sketches.
        rules: the optimizer's rule for each linear, by name, where updates are captured too.
        model: the language model, whose tokens tell what the linears' tensors hold, see
            `TokenGrids`.
    """

    def __init__(
        self,
        linears: list[LoraLinear],
        projector: Projector,
        rules: Mapping[str, UpdateRule] | None = None,
        model: nn.Module | None = None,
    ) -> None:
        self.linears = linears
        self.projector = projector
        self._rules = rules
        self.seconds = 0.0
        self._handles: list[RemovableHandle] = []
        self._grids = TokenGrids(model, linears)
        self._armed = self._compiled = False
        self._memory = torch.empty(0, dtype=torch.float32)
        self._anchor: Tensor | None = None
        self._unit: Tensor | None = None
        self._segments: Segments | None = None
        self._failure: Exception | None = None
        self._reset(0)

    def attach(self, *, compiled: bool = False) -> None:
        """Register the hooks (no effect on the model until `begin`).

        Args:
            compiled: the model runs through torch.compile. The hooks then break its graphs, and
                what was compiled without them is dropped; so it is again by `detach`. The rows stay
                exact, but the compiler fuses less, so training may round its last bits otherwise.
        """
        if self._handles:
            return
        self._compiled = compiled
        if compiled:
            torch.compiler.reset()
        self._grids.attach(compiled=compiled)
        for linear in self.linears:
            hook = self._forward_hook(linear)
            if compiled:
                hook = torch.compiler.disable(hook)
            for module in (linear.module, *linear.tied):
                self._handles.append(module.register_forward_hook(hook))
            self._handles.append(
                linear.weight.register_post_accumulate_grad_hook(self._trained_hook(linear))
            )

    def detach(self) -> None:
        """Remove all hooks; safe to call at any time and more than once."""
        self._armed = False
        self._grids.detach()
        if self._handles and self._compiled:
            torch.compiler.reset()
        while self._handles:
            self._handles.pop().remove()

    def begin(
        self, batch_size: int, *, own_backward: bool = False, segments: Segments | None = None
    ) -> None:
        """Start to collect; the next forward and backward belong to ``batch_size`` samples.

        Args:
            batch_size: B, the number of samples.
            own_backward: the backward pass will be `backward`, not the training's own.
            segments: where the samples lie in a packed batch; else each is one row.
        """
        self._reset(batch_size)
        self._segments = segments
        self._armed = True
        self._grids.forget()
        if own_backward:
            self._anchor = torch.zeros((), dtype=torch.float32, requires_grad=True)

    def begin_backward(self, unit: Tensor | None = None) -> None:
        """Say that the forward is over, and that the next backward pass is the one that trains.

        Later calls of a module are recomputations.

        Args:
            unit: [B] the factor that brings each row into the unit of its sample's own loss. An
                update is not linear in the gradient, so it is captured only where this is known
                before the backward pass.
        """
        self._in_backward = True
        self._refuse_inner_backward()
        if self._rules is not None and unit is not None:
            self._unit = unit.to(torch.float32)[:, None, None]

    def backward(self, loss: Tensor) -> None:
        """A backward pass from ``loss`` [] to the taps and no further.

        Every tap has the anchor as an input, so autograd walks to all taps and to nothing else: no
        gradient of a weight is computed, and the weights need not be in the graph (sharded ones
        are not). Call `begin` with ``own_backward=True`` before the forward.
        """
        assert self._anchor is not None, "begin(own_backward=True) comes first"
        self.begin_backward()
        if loss.requires_grad:  # else `finish` says what is wrong
            torch.autograd.grad(loss, [self._anchor], allow_unused=True)

    def cancel(self) -> None:
        """Stop collecting and drop what was collected."""
        self._armed = False
        self._reset(0)

    def finish(self) -> CapturedRows:
        """Stop collecting and return the rows of the micro-batch.

        Raises:
            CaptureError: no LoRA linear took part in the backward pass, a weight got its gradient
                past the hooks or from another pass as well, the loss holds a gradient, a tensor is
                not known to hold the samples, or the backward pass is one of our own and the
                forward was checkpointed with reentry.
        """
        self._armed = False
        if self._failure is not None:
            failure = self._failure
            self._reset(0)
            raise failure
        with torch.no_grad():
            for linear, rows in list(self._partial.values()):
                self._consume(linear, rows)
        missed = self._trained - self._tapped
        if missed:
            raise CaptureError(
                f"`{min(missed)}` and {len(missed) - 1} other LoRA weights got a gradient that no "
                "capture hook saw: the model ran code that was compiled before the hooks came, or "
                "that reads the weights past their linears, as fused kernels do. Call "
                "torch.compiler.reset() before the fit, or train without such code."
            )
        empty = self._rows.sketch is None
        if empty and self._anchor is not None and self._ran_without_gradient:
            raise CaptureError(
                "the LoRA layers ran without gradient, as under reentrant gradient checkpointing, "
                "which knows no backward pass to chosen tensors. Use `use_reentrant=False`, or let "
                "the model skip checkpointing in eval mode."
            )
        if empty:
            raise CaptureError(
                "the backward pass reached no LoRA layer: the loss does not depend on the active "
                "adapter, or it was computed by another copy of the model."
            )
        captured = self._rows.captured(None if self._unit is None else self._updates.captured())
        self._reset(0)
        return captured

    def _reset(self, batch_size: int) -> None:
        self._batch_size = batch_size
        self._forward = object()  # hooks of an earlier forward are not of this one
        self._segments = None
        self._in_backward = False
        self._ran_without_gradient = False
        self._failure = None
        self._anchor = None
        self._unit = None
        self._rows, self._updates = _Projected(self.projector), _Projected(self.projector)
        self._calls: dict[str, int] = {}
        self._partial: dict[str, tuple[LoraLinear, Tensor]] = {}
        self._tapped: set[str] = set()
        self._trained: set[str] = set()
        self._inner: list[LoraLinear] = []

    def _trained_hook(self, linear: LoraLinear) -> Callable[[Tensor], None]:
        def hook(weight: Tensor) -> None:
            if self._armed and self._in_backward:
                self._trained.add(linear.name)
            elif self._armed:
                self._inner.append(linear)

        return hook

    def _refuse_inner_backward(self) -> None:
        """`.backward()` in the step trains, too, unless its gradients were set to zero since."""
        kept = [x.name for x in self._inner if (g := x.weight.grad) is not None and g.any()]
        if kept:
            self._fail(
                CaptureError(
                    f"`training_step` itself called `.backward()`, so that `{kept[0]}` trains on "
                    "the sum of two backward passes. Return one loss, and take gradients that "
                    "are not to train by torch.autograd.grad."
                )
            )

    def _forward_hook(self, linear: LoraLinear) -> Callable[..., Tensor | None]:
        def hook(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor | None:
            if not self._armed or not linear.weight.requires_grad:
                return None
            # A recomputation is no further use of the module; neither is DoRA's call on an identity
            # matrix, for the norm of the whole weight, which gets no gradient.
            if not self._in_backward and (
                output.dim() > 2 or self._grids.flattened(output.shape[:-1])
            ):
                self._calls[linear.name] = self._calls.get(linear.name, 0) + 1
            if not (torch.is_grad_enabled() and output.requires_grad):
                self._ran_without_gradient = True
                return None
            x, receive = linear.inputs(inputs[0].detach()), self._receiver(linear)
            if self._anchor is None and not saves_elsewhere():
                held = [x]  # given up when used, as autograd gives up its own
                output.register_hook(lambda d: receive(held, d))
                return None
            return Tap.apply(output, x, self._anchor, lambda x, d: receive([x], d))

        return hook

    def _receiver(self, linear: LoraLinear) -> Callable[[list[Tensor], Tensor], None]:
        """What a call of ``linear`` does with its inputs (given up by it) and output gradients."""
        grid, forward, arrived = self._grids.grid, self._forward, False

        def receive(x: list[Tensor], d: Tensor) -> None:
            nonlocal arrived
            if not self._armed or forward is not self._forward or self._failure is not None:
                return
            if not self._in_backward:  # autograd.grad inside the step
                if d.requires_grad:  # create_graph=True: the training loss may hold it
                    d.register_hook(lambda _: self._refuse_second_order(linear))
                return
            if arrived:
                self._fail(
                    CaptureError(
                        f"two backward passes went through one forward of `{linear.name}`: it is "
                        "not clear which of them trains. Take other gradients in `training_step`, "
                        "before it returns (torch.autograd.grad there is not counted), or call the "
                        "model once for each."
                    )
                )
                return
            arrived = True
            self._receive(linear, x.pop(), d.detach(), grid)

        return receive

    def _refuse_second_order(self, linear: LoraLinear) -> None:
        if self._armed and self._in_backward:
            self._fail(
                CaptureError(
                    "the training loss holds a gradient of the model (autograd.grad with "
                    f"create_graph=True, as for a gradient penalty): `{linear.name}` then trains "
                    "on second derivatives, which are no sum over its inputs. Leave the penalty "
                    "out while the data is valued, or value it with extract_features."
                )
            )

    def _receive(self, linear: LoraLinear, x: Tensor, d: Tensor, grid: TokenGrid) -> None:
        start = perf_counter()
        self._tapped.add(linear.name)
        try:
            with plain_arithmetic(d.device.type):
                self._take(linear, x, d, grid)
        except Exception as error:
            self._fail(error)
        self.seconds += perf_counter() - start

    def _fail(self, error: Exception) -> None:
        """The training's backward pass goes on; `finish` raises the error.

        The hooks stay: what is recomputed in the pass must be what was computed before it.
        """
        self._failure = self._failure or error
        self._rows, self._updates = _Projected(self.projector), _Projected(self.projector)
        self._partial.clear()

    def _take(self, linear: LoraLinear, x: Tensor, d: Tensor, grid: TokenGrid) -> None:
        packed = self._segments
        n_rows = self._batch_size if packed is None else len(packed.segment_ids)
        x, d = self._grids.by_sample(linear.name, x, d, n_rows, grid)
        if packed is not None:
            if d.shape[:2] != packed.segment_ids.shape:
                raise CaptureError(
                    f"`{linear.name}` ran on {list(d.shape[:2])} tokens in a packed batch whose "
                    f"`segment_ids` name {list(packed.segment_ids.shape)}."
                )
            x, d = packed.unpacked(x), packed.unpacked(d)
        # Under autocast the linear saw x in the precision of its output.
        rows = self._outer_sums(d.float(), x.to(d.dtype).float())
        self._calls[linear.name] = self._calls.get(linear.name, 1) - 1
        if linear.name in self._partial:
            rows = self._partial.pop(linear.name)[1].add_(rows)
        if self._calls[linear.name] > 0:
            self._partial[linear.name] = (linear, rows.clone())
        else:
            self._consume(linear, rows)

    def _outer_sums(self, d: Tensor, x: Tensor) -> Tensor:
        """``sum_t outer(d[b, t], x[b, t])`` [B, out, in] of d [B, T, out] and x [B, T, in].

        They lie in memory that the next layer overwrites: fetching it anew for each layer costs as
        much as the product. The narrow side comes first: BLAS takes a product of few rows four
        times faster than one of few columns.
        """
        turned = d.shape[2] > x.shape[2]
        first, second = (x, d) if turned else (d, x)
        shape = (len(d), first.shape[2], second.shape[2])
        n = shape[0] * shape[1] * shape[2]
        if self._memory.numel() < n or self._memory.device != d.device:
            self._memory = torch.empty(n, dtype=torch.float32, device=d.device)
        rows = self._memory[:n].view(shape)
        torch.bmm(first.transpose(1, 2), second, out=rows)
        return rows.transpose(1, 2) if turned else rows

    def _consume(self, linear: LoraLinear, rows: Tensor) -> None:
        self._rows.add(linear, rows)
        if self._rules is not None and self._unit is not None:
            own = rows.mul_(self._unit.to(rows.device))  # the rows are ours, and done with
            self._updates.add(linear, self._rules[linear.name].direction(own))
