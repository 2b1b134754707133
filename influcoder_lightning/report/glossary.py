"""What the words in reports mean: one sentence each, shown where the word stands."""

from __future__ import annotations

GLOSSARY: dict[str, str] = {
    "against random_k": "The arm's mean held-out loss minus that of random_k, in nats per response "
    "token; below zero means better than chance.",
    "95 % from": "Lower end of the interval that holds the true mean in 95 of 100 such "
    "experiments (Student's t over seeds).",
    "arm": "One way of choosing the samples to train on; all arms train equally long.",
    "base": "The model before any of this training.",
    "bottom_k": "The k samples with the lowest scores.",
    "full": "All samples of the pool, for as many steps as every other arm.",
    "held-out loss": "Mean negative log-likelihood per response token, in nats, on evaluation "
    "rows that neither training nor ranking has seen; lower is better.",
    "mean loss": "Held-out loss, averaged over the seeds.",
    "nats": "Unit of a loss with natural logarithms; a loss that is lower by 0.69 nats gives the "
    "right token twice the probability.",
    "percentile": "Place in the ranking in per cent: 0 is the best sample, 100 the worst.",
    "pool": "The samples that are valued and can be chosen.",
    "queries": "The samples that say what the model should become good at; scores are towards "
    "them.",
    "random_k": "k samples drawn at random from the pool, anew for each seed.",
    "rank": "Place in the ranking; 1 is the most helpful sample.",
    "runs": "How many models were trained, one per seed.",
    "score": "How much learning from this sample moves the model the way the queries ask for; "
    "higher is better, and only the order matters.",
    "top_k": "The k samples with the highest scores.",
}


def definition(term: str) -> str | None:
    """What a term means, whatever its case; None where the glossary does not have it."""
    return GLOSSARY.get(term.strip().lower())
