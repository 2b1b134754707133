"""Demonstrations and queries as tokens, and what is cut so that both fit the context."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from influcoder_lightning.data.rows import TextRow
from influcoder_lightning.data.template import FrameEncoder, Template
from influcoder_lightning.errors import DataError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

DEFAULT_TEMPLATE = "Instruction: {prompt}\nResponse: {response}"
SEPARATOR = "\n\n"


@dataclass(frozen=True)
class Query:
    """A query: all tokens, and how many of them at the end are the answer."""

    tokens: list[int]
    n_answer: int


@dataclass
class Cuts:
    """How many texts lost something."""

    query_prompts: int = 0
    demonstration_prompts: int = 0
    demonstration_responses: int = 0


class Prompts:
    """Builds ``begin token + demonstration + separator + query``, at most ``max_length`` tokens.

    Demonstration (with its separator) and query are tokenised apart, prompt and response of each as
    well. The answer of a query is never cut. A query may take half of the context: a longer one
    loses the head of its prompt. A demonstration gets what the longest query leaves, the same for
    every query: a longer one loses the head of its prompt, then the end of its response.

    Args:
        tokenizer: a Hugging Face tokenizer.
        queries: rows with prompt and response.
        max_length: tokens of the context.
        template: frame of demonstrations and queries.
        separator: between the two.

    Raises:
        DataError: a query without answer tokens, or whose answer alone does not fit.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        queries: Sequence[TextRow],
        max_length: int,
        template: str = DEFAULT_TEMPLATE,
        separator: str = SEPARATOR,
    ) -> None:
        self._encoder = FrameEncoder(tokenizer)
        self._template, self._separator = Template(template), separator
        begin = tokenizer.bos_token_id
        self.begin = [] if begin is None else [int(begin)]
        self.cuts = Cuts()
        # The first token needs one before it, else nothing predicts it.
        self.queries = [self._query(row, i, max_length // 2) for i, row in enumerate(queries)]
        longest = max(len(query.tokens) for query in self.queries)
        self.room = max_length - len(self.begin) - longest

    def demonstration(self, row: TextRow) -> list[int]:
        """Tokens of a demonstration with its separator, at most ``room``; counts what is cut."""
        context, response = self._parts(row)
        tail = self._encoder.encode("", [""], self._template.suffix + self._separator)[0]
        excess = len(context) + len(response) + len(tail) - self.room
        if excess > 0:
            frame = self._frame()
            lost = min(excess, len(context) - len(frame))
            self.cuts.demonstration_prompts += lost > 0
            context = frame[: self._n_prefix] + context[self._n_prefix + lost :]
            if excess > lost:
                self.cuts.demonstration_responses += 1
                response = response[: max(0, len(response) - (excess - lost))]
        return context + response + tail

    def _query(self, row: TextRow, index: int, limit: int) -> Query:
        context, answer = self._parts(row)
        if not answer or not (context or self.begin):
            raise DataError(f"query {index} has no answer token to predict; leave it out.")
        frame = self._frame()
        room = limit - len(answer)
        if room < len(frame):
            raise DataError(
                f"query {index}: its answer has {len(answer)} tokens, and with the template it "
                f"does not fit half of the context ({limit} tokens). Leave it out, or raise "
                "max_length."
            )
        if len(context) > room:
            self.cuts.query_prompts += 1
            context = frame[: self._n_prefix] + context[len(context) - room + self._n_prefix :]
        return Query(context + answer, len(answer))

    def _parts(self, row: TextRow) -> tuple[list[int], list[int]]:
        prefix, middle = self._template.prefix, self._template.middle
        context = self._encoder.encode(prefix, [row["prompt"]], middle)[0]
        return context, self._encoder.encode("", [row["response"]], "")[0]

    def _frame(self) -> list[int]:
        """The template around an empty prompt."""
        prefix = self._encoder.encode(self._template.prefix, [""], "")[0]
        self._n_prefix = len(prefix)
        return prefix + self._encoder.encode("", [""], self._template.middle)[0]
