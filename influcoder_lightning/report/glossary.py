"""What the words in reports mean: one sentence each, shown where the word stands."""

from __future__ import annotations

GLOSSARY: dict[str, str] = {
    "95 % from": "Lower end of the interval that holds the true mean in 95 of 100 such "
    "experiments (Student's t over seeds).",
    "95 % interval": "Range that holds the true value in 95 of 100 such experiments.",
    "against random_k": "The arm's mean held-out loss minus that of random_k, in nats per "
    "response token; below zero means better than chance.",
    "arm": "One way of choosing the samples to train on; all arms train equally long.",
    "base": "The model before any of this training.",
    "best place": "Place of the sample with the query (or method) that likes it most, in per cent "
    "of the ranking; 0 is first.",
    "bottom_k": "The k samples with the lowest scores.",
    "bytes per row": "Size of influence.h5 for each row in it; a row is one sample at one step.",
    "code": "The sample's gradient compressed to a few hundred numbers; the cosine of two codes "
    "says how far a model learns the same from both.",
    "confidence": "How sure the text tower is of this score, from 0 to 1.",
    "copies": "Number of the group of near-copies, and how many samples it has.",
    "drift": "Mean over queries of the cosine between a query's gradient at the start and at the "
    "end of a window; 1 means that the model asks for the same, 0 for something unrelated.",
    "end of the run": "Seconds after the last step: the text tower is fitted and all rows are "
    "merged into one file.",
    "extraction": "Time of the pass over the pool with the frozen model.",
    "full": "All samples of the pool, for as many steps as every other arm.",
    "held-out loss": "Mean negative log-likelihood per response token, in nats, on evaluation "
    "rows that neither training nor ranking has seen; lower is better.",
    "mean loss": "Held-out loss, averaged over the seeds.",
    "nats": "Unit of a loss with natural logarithms; a loss that is lower by 0.69 nats gives the "
    "right token twice the probability.",
    "nats per response token": "Mean negative log-likelihood of a response's tokens, with natural "
    "logarithms; lower is better.",
    "near-copies": "Two samples whose codes have a cosine above 0.95: a model learns nearly the "
    "same from both.",
    "peak memory": "The most memory that this command's process held, on the processor's side.",
    "percentile": "Place in the ranking in per cent: 0 is the best sample, 100 the worst.",
    "pool": "The samples that are valued and can be chosen.",
    "queries": "The samples that say what the model should become good at; scores are towards "
    "them.",
    "random_k": "k samples drawn at random from the pool, anew for each seed.",
    "rank": "Place in the ranking; 1 is the most helpful sample.",
    "rows": "A row is one sample at one training step; a sample has one in each epoch.",
    "rows per second": "Rows that were captured in a second of training, by all processes "
    "together.",
    "runs": "How many models were trained, one per seed.",
    "score": "How much learning from this sample moves the model the way the queries ask for; "
    "higher is better, and only the order matters.",
    "share of samples below": "Share of the samples whose score is lower.",
    "sketch": "The sample's gradient after a random projection, from which its code is computed.",
    "spearman": "Rank correlation of two methods: 1 is the same order, 0 none, -1 the reverse.",
    "spread": "How far the queries (or methods) disagree on the sample: standard deviation over "
    "queries of its place, from 0 to 0.5; over methods the distance of its best and worst place.",
    "step time share": "Part of the training's time that went into the valuation.",
    "steps from": "Optimizer step at which the window begins.",
    "store on disk": "Everything in the influence folder: rows, queries, towers, adapters.",
    "top_k": "The k samples with the highest scores.",
    "tower version": "Which version of the encoder the window's rows and queries were compressed "
    "by; codes of two versions do not compare.",
    "training with valuation": "Time of the fine-tuning run, the valuation's part included; "
    "several processes are added up.",
    "window": "A stretch of the training whose samples are compared with one set of query "
    "gradients.",
    "worst place": "Place of the sample with the query (or method) that likes it least, in per "
    "cent of the ranking; 100 is last.",
}


def definition(term: str) -> str | None:
    """What a term means, whatever its case; None where the glossary does not have it."""
    return GLOSSARY.get(term.strip().lower())
