"""Which numbers of a linear's tensors belong to which sample, told by the model's own tokens.

A first dimension of B may be samples by chance only: tokens of a sequence-first module, images of
a vision tower. So the tokens that the language model itself received, [B, T], say what a tensor
holds. Known are [B, T, ...], flattened [B * T, ...], sequence-first [T, B, ...], and images of a
tower of their own where every sample has equally many.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from influcoder_lightning.capture.layers import LoraLinear
from influcoder_lightning.errors import CaptureError

_EXPERT = re.compile(r"(^|\.)\w*?(?<!shared_)experts?(_?\d+)?\.")
_TOKENS = ("input_ids", "inputs_embeds")
_PLACEHOLDERS = ("image_token_id", "image_token_index", "video_token_id", "video_token_index",
                 "audio_token_id", "audio_token_index")  # fmt: skip


@dataclass
class TokenGrid:
    """One call of the language model.

    Attributes:
        shape: (B, T) of its tokens; None if they are not known.
        certain: these are known to be tokens, not merely the first tensor given.
        images: it got other numbers beside its tokens, as images or sounds.
        tokens: its token ids, where it got images.
        config: of the model.
    """

    shape: tuple[int, int] | None = None
    certain: bool = False
    images: bool = False
    tokens: Tensor | None = None
    config: object = None

    @cached_property
    def even(self) -> bool:
        """Whether every sample has as many images as every other, at least one."""
        if self.tokens is None:
            return False
        values = {v for n in _PLACEHOLDERS if isinstance(v := getattr(self.config, n, None), int)}
        counts = [c for v in values if bool((c := (self.tokens == v).sum(1)).any())]
        return bool(counts) and all(bool((c == c[0]).all()) for c in counts)


class TokenGrids:
    """Watches the calls of a language model; ``grid`` is that of the newest.

    Args:
        model: the language model; None: nothing is known of its calls.
        linears: those whose tensors are to be told apart.
    """

    def __init__(self, model: nn.Module | None, linears: Sequence[LoraLinear]) -> None:
        self._model = None if model is None else getattr(model, "get_base_model", lambda: model)()
        self._towers = {x.name for x in linears if _in_another_tower(model, x.name)}
        self._sequence_first: set[str] = set()
        self._either_way: set[str] = set()
        self._handle: RemovableHandle | None = None
        self.grid = TokenGrid()

    def attach(self, *, compiled: bool = False) -> None:
        """Register the hook; ``compiled``: the model runs through torch.compile."""
        if self._model is not None and self._handle is None:
            hook = torch.compiler.disable(self._before) if compiled else self._before
            self._handle = self._model.register_forward_pre_hook(hook, with_kwargs=True)

    def forget(self) -> None:
        """Of the calls so far: a new batch begins."""
        self.grid = TokenGrid()

    def detach(self) -> None:
        """Remove the hook."""
        if self._handle is not None:
            self._handle.remove()
            self._handle = None

    def by_sample(
        self, name: str, x: Tensor, d: Tensor, n_rows: int, grid: TokenGrid
    ) -> tuple[Tensor, Tensor]:
        """A linear's inputs and output gradients as [B, tokens, in] and [B, tokens, out].

        Args:
            name: of the linear.
            x: its inputs.
            d: its output gradients, of the same leading dimensions.
            n_rows: B, rows of the training batch.
            grid: of the call in which the linear ran.

        Raises:
            CaptureError: it is not known which of the numbers belong to which sample.
        """
        lead = tuple(d.shape[:-1])
        if name in self._towers:
            return _by_image(name, x, d, n_rows, grid)
        if grid.shape is None or (not grid.certain and grid.shape[0] != n_rows):
            if len(lead) == 2 and lead[0] == n_rows:
                return x, d
            raise CaptureError(_unknown(name, lead, n_rows, None))
        n, length = grid.shape
        if n == n_rows:
            if lead == (n, length):
                return self._either(name, x, d)
            if lead in ((n * length,), (1, n * length)):
                if _EXPERT.search(name):
                    raise CaptureError(_expert(name, lead))
                return _viewed(x, n), _viewed(d, n)
            if lead == (length, n):
                self._know_sequence_first(name)
                return x.transpose(0, 1), d.transpose(0, 1)
            if grid.images and len(lead) == 2:  # a projector of images, say
                return _by_image(name, x, d, n, grid)
            if len(lead) == 2 and lead[0] == n:  # some of the tokens, as for a part of the logits
                return x, d
        raise CaptureError(
            _expert(name, lead) if _EXPERT.search(name) else _unknown(name, lead, n_rows, grid)
        )

    def flattened(self, lead: Sequence[int]) -> bool:
        """Whether these leading dimensions are the newest call's tokens in one row."""
        shape = self.grid.shape
        return shape is not None and tuple(lead) == (shape[0] * shape[1],)

    def _either(self, name: str, x: Tensor, d: Tensor) -> tuple[Tensor, Tensor]:
        """[B, T] that is [T, B] as well where B = T: then it is what the module was before."""
        if d.shape[0] == d.shape[1] > 1:
            if name in self._sequence_first:
                return x.transpose(0, 1), d.transpose(0, 1)
            self._either_way.add(name)
        return x, d

    def _know_sequence_first(self, name: str) -> None:
        if name in self._either_way:
            raise CaptureError(
                f"`{name}` runs on [tokens, batch, features], and a batch before had as many "
                "tokens as samples, so that its rows were taken for the other. Pad that batch to "
                "another length, or let the first batch have another."
            )
        self._sequence_first.add(name)

    def _before(
        self, module: nn.Module, args: tuple[object, ...], kwargs: dict[str, object]
    ) -> None:
        tokens = next((x for n in _TOKENS if isinstance(x := kwargs.get(n), Tensor)), None)
        named = tokens is not None
        if tokens is None:
            tokens = next((a for a in (*args, *kwargs.values()) if isinstance(a, Tensor)), None)
        shape = None
        if tokens is not None and tokens.dim() == (3 if tokens.is_floating_point() else 2):
            shape = (tokens.shape[0], tokens.shape[1])
        others = (k for k, v in kwargs.items() if isinstance(v, Tensor) and v.is_floating_point())
        images = any(name not in ("inputs_embeds", "attention_mask") for name in others)
        whole = tokens is not None and not tokens.is_floating_point() and shape is not None
        self.grid = TokenGrid(
            shape,
            named,
            images,
            tokens if images and whole else None,
            getattr(module, "config", None),
        )


def _in_another_tower(model: nn.Module | None, name: str) -> bool:
    """Whether a weight lies in a part of the model that reads something else than tokens."""
    from transformers import PreTrainedModel

    part, found = model, False
    for step in name.split("."):
        part = getattr(part, step, None) if part is not None else None
        if isinstance(part, PreTrainedModel):
            modalities = getattr(part, "input_modalities", None) or ()
            modalities = (modalities,) if isinstance(modalities, str) else tuple(modalities)
            reads_tokens = part.main_input_name == "input_ids" and (
                not modalities or "text" in modalities
            )
            found = not reads_tokens
    return found


def _by_image(
    name: str, x: Tensor, d: Tensor, n_rows: int, grid: TokenGrid
) -> tuple[Tensor, Tensor]:
    """Images [n, patches, ...], in the order of the samples, of which each has equally many."""
    lead = tuple(d.shape[:-1])
    if grid.even and len(lead) == 2 and lead[0] and lead[0] % n_rows == 0:
        return _viewed(x, n_rows), _viewed(d, n_rows)
    raise CaptureError(_images(name, lead, n_rows))


def _viewed(tensor: Tensor, n_rows: int) -> Tensor:
    return tensor.reshape(n_rows, -1, tensor.shape[-1])


def _expert(name: str, lead: Sequence[int]) -> str:
    return (
        f"`{name}` is an expert of a mixture: it ran on {list(lead)} tokens that a router chose, "
        "and which samples they belong to is not known. Leave the experts out of `target_modules`; "
        "attention, router and shared experts of a mixture are captured exactly."
    )


def _images(name: str, lead: Sequence[int], n_rows: int) -> str:
    return (
        f"`{name}` reads images (or sounds), not tokens, and ran on {list(lead)} in a batch of "
        f"{n_rows} samples: which of them belong to which sample is known only where each sample "
        "has equally many, not flattened. Leave this tower out of `target_modules`, or give every "
        "sample of a batch one image."
    )


def _unknown(name: str, lead: Sequence[int], n_rows: int, grid: TokenGrid | None) -> str:
    received = "" if grid is None else f" The model was called on {list(grid.shape or ())} tokens."
    return (
        f"`{name}` ran on a tensor of shape {[*lead, 'features']} in a batch of {n_rows} samples: "
        f"expected [batch, tokens, features].{received} Packed rows without `segment_ids` and "
        "several sub-batches in one training step are not supported; let each sample be one row "
        "of one forward pass."
    )
