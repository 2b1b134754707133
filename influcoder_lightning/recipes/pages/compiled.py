"""What is said of a compiled ranking: on its page, and in the folder that goes to an engine."""

from __future__ import annotations

from typing import Any

from influcoder_lightning.report.press.blocks import Number, Numbers, Section, Text


def compiled_sections(content: dict[str, Any]) -> list[Section]:
    """How well it agrees, and what was chosen."""
    found, norm = content["agreement"], content["norm"]
    numbers = [
        Number("agreement", f"{found['scores']:.3f}", "Spearman's rho with exact scores"),
        Number("slopes", f"{found['slopes']:.3f}", "rho with exact inner products"),
        Number("step", f"{content['share_of_norm']:g}", "of the LoRA's own norm"),
        Number("checked on", f"{found['rows']:,} rows"),
    ]
    words = (
        "The score of a text is half the difference of its losses under the two adapters, divided "
        "by the step"
    )
    if norm is not None:
        numbers.insert(2, Number("norms", f"{norm['agreement']:.3f}", "rho of foreseen with true"))
        words += ", and by the norm that loss and length foresee of its gradient"
    return [
        Section("How well two forward passes do", [Numbers(numbers), Text(f"{words}.")]),
    ]


def readme(content: dict[str, Any]) -> str:
    """Twenty lines for whoever scores with the two folders."""
    norm, example, found = content["norm"], content["example"], content["agreement"]
    n_tokens = len(example["token_ids"])
    score = "slope"
    if norm is not None:
        score = (
            f"slope / exp({norm['constant']:.6g} + {norm['loss']:.6g} * log(loss) + "
            f"{norm['tokens']:.6g} * log(n))"
        )
    return f"""# Two adapters that score text by influence ({content["method"]})

`plus` and `minus` are PEFT adapters of {content["model"]}. A text's score says whether training on
it moves the model as {content["queries"]} queries ask for: higher is better.

    slope = (loss under plus - loss under minus) / (2 * {content["step"]:.8g})
    score = {score}

`loss` is the mean negative log-likelihood of the n response tokens, in nats (in the second line the
mean of both adapters' losses). Each token's share of the slope is its own difference, divided by
2 * step * n; the shares add up to the slope.

With peft: `PeftModel.from_pretrained(base, "plus")`, `model.load_adapter("minus", "minus")`, then
two forward passes with `model.set_adapter(...)`. With an engine that serves LoRA: two requests for
the log-probabilities of the same prompt, one for each adapter, as token ids and never as text; the
first token has none, and a cache of prefixes belongs to one adapter.

Texts become tokens by the model's own tokenizer and the template in `score.json`, cut to
{content["max_length"]} tokens. Check sign and scale by the example there: its {n_tokens} tokens,
of which those from place {example["first_response_token"]} on are the response, have the score
{example["score"]:.6g}.

Agreement with exact scores, on {found["rows"]} rows: Spearman's rho {found["scores"]:.3f}.
"""
