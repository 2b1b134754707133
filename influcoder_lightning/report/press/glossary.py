"""What the words in reports mean: one sentence each, shown where the word stands."""

from __future__ import annotations

from influcoder_lightning.influence.registry import what_it_says

GLOSSARY: dict[str, str] = {
    "95 % from": "Lower end of the interval that holds the true mean in 95 of 100 such "
    "experiments (Student's t over seeds).",
    "95 % interval": "Range that holds the true value in 95 of 100 such experiments.",
    "against random_k": "The arm's mean held-out loss minus that of random_k, in nats per "
    "response token; below zero means better than chance.",
    "aggregated": "The same for scores (and losses) that are averaged over the queries first.",
    "arm": "One way of choosing the samples to train on; all arms train equally long.",
    "base": "The model before any of this training.",
    "best lds": "The highest linear datamodeling score of all methods here, with its 95 % "
    "interval.",
    "best place": "Place of the sample with the query (or method) that likes it most, in per cent "
    "of the ranking; 0 is first.",
    "bottom k in common": "Share of the k worst samples of one ranking that are among the k worst "
    "of the other.",
    "bottom_k": "The k samples with the lowest scores.",
    "by chance": "What two rankings that have nothing to do with each other have in common on "
    "average.",
    "bytes": "What is kept of a sample.",
    "bytes per row": "Size of influence.h5 for each row in it; a row is one sample at one step.",
    "chosen": "Samples that select.strategy took; their rows are in selected.jsonl (or .parquet).",
    "code": "The sample's gradient compressed to a few hundred numbers; the cosine of two codes "
    "says how far a model learns the same from both.",
    "confidence": "How sure the text tower is of this score, from 0 to 1.",
    "copies": "Number of the group of near-copies, and how many samples it has.",
    "cpu ms/sample": "Processor milliseconds until a new sample can be compared with a query.",
    "drift": "Mean over queries of the cosine between a query's gradient at the start and at the "
    "end of a window; 1 means that the model asks for the same, 0 for something unrelated.",
    "end of the run": "Seconds after the last step: the text tower is fitted and all rows are "
    "merged into one file.",
    "extraction": "Time of the pass over the pool with the frozen model.",
    "full": "All samples of the pool, for as many steps as every other arm.",
    "full_equal_compute": "All samples, for all the steps that the loop took.",
    "group": "What the pool's rows call their group.",
    "held-out loss": "Mean negative log-likelihood per response token, in nats, on evaluation "
    "rows that neither training nor ranking has seen; lower is better.",
    "highest score": "Score of the sample with rank 1.",
    "k": "How many samples of each end of both rankings are compared.",
    "kendall": "Rank correlation by counting pairs: 1 is the same order, 0 none, -1 the reverse.",
    "kept": "Samples that the round left.",
    "kind": "What the method needs of a new sample.",
    "lds": "Linear datamodeling score: rank correlation, over random subsets, of the summed "
    "scores of a subset's members with what training on the subset did to a query's loss; mean "
    "over queries.",
    "learned from": "Samples that the method was fitted on.",
    "loop": "What the loop kept in its best round.",
    "loop against random_k": "Held-out loss after training on what the loop kept minus that after "
    "training on as many random samples, mean over seeds; below zero: the loop helps.",
    "loss on held-out queries": "Mean loss per response token on the query rows that do not rank, "
    "in nats.",
    "lowest score": "Score of the sample with the last rank.",
    "mean loss": "Held-out loss, averaged over the seeds.",
    "mean percentile (0 = best)": "Mean place of these rows in the ranking, in per cent: 0 is the "
    "best, 100 the worst.",
    "mean score": "Mean score of the chosen samples.",
    "method": "How the samples are scored.",
    "nats": "Unit of a loss with natural logarithms; a loss that is lower by 0.69 nats gives the "
    "right token twice the probability.",
    "nats per response token": "Mean negative log-likelihood of a response's tokens, with natural "
    "logarithms; lower is better.",
    "near-copies": "Two samples whose codes have a cosine above 0.95: a model learns nearly the "
    "same from both.",
    "one_shot": "As many samples as the loop kept, the best of the first round's ranking.",
    "peak memory": "The most memory that this command's process held, on the processor's side.",
    "per query": "Rank correlation with the exact gradients' cosines for each query alone, then "
    "the mean.",
    "percentile": "Place in the ranking in per cent: 0 is the best sample, 100 the worst.",
    "pool": "The samples that are valued and can be chosen.",
    "prompt": "What the model is given; no loss is taken on it.",
    "queries": "The samples that say what the model should become good at; scores are towards "
    "them.",
    "random_k": "k samples drawn at random from the pool, anew for each seed.",
    "rank": "Place in the ranking; 1 is the most helpful sample.",
    "removed": "How many of the best samples were left out of the training.",
    "response": "What the model learns to answer.",
    "retraining steps": "Optimizer steps of the round's training on what it kept.",
    "round": "One turn of valuing, choosing and retraining; round 0 is the whole pool.",
    "rows": "A row is one sample at one training step; a sample has one in each epoch.",
    "rows per second": "Rows that were captured in a second of training, by all processes "
    "together.",
    "runs": "How many models were trained, one per seed.",
    "sample": "Id of the sample, as the pool gives it; without one, its line number from 0.",
    "samples": "How many samples were trained on or compared.",
    "samples ranked": "Samples of the pool that have a score.",
    "score": "How much learning from this sample moves the model the way the queries ask for; "
    "higher is better, and only the order matters.",
    "seed agreement": "Rank correlation of the losses of two models that were trained on the same "
    "subsets with other seeds; bounds what any method can reach against one model.",
    "seeds": "Repetitions of the training, each with other initial weights, another order of the "
    "samples, and another random subset.",
    "seeds per subset": "Models trained on each subset.",
    "share of samples below": "Share of the samples whose score is lower.",
    "sketch": "The sample's gradient after a random projection, from which its code is computed.",
    "spearman": "Rank correlation of two methods: 1 is the same order, 0 none, -1 the reverse.",
    "spread": "How far the queries (or methods) disagree on the sample: standard deviation over "
    "queries of its place, from 0 to 0.5; over methods the distance of its best and worst place.",
    "step time share": "Part of the training's time that went into the valuation.",
    "steps": "Optimizer steps of the training.",
    "steps from": "Optimizer step at which the window begins.",
    "store on disk": "Everything in the influence folder: rows, queries, towers, adapters.",
    "strategy": "How the samples were chosen from the ranking (select.strategy).",
    "subsets": "Random subsets of the pool that models were trained on.",
    "task": "What the pool's rows call their task.",
    "to": "Upper end of the interval.",
    "top k in common": "Share of the k best samples of one ranking that are among the k best of "
    "the other.",
    "top_k": "The k samples with the highest scores.",
    "top_k against random_k": "Held-out loss after training on the k best samples minus that "
    "after training on k random ones, mean over seeds; below zero: the ranking helps.",
    "tower version": "Which version of the encoder the window's rows and queries were compressed "
    "by; codes of two versions do not compare.",
    "training with valuation": "Time of the fine-tuning run, the valuation's part included; "
    "several processes are added up.",
    "valuation steps": "Optimizer steps of the round's valuation run.",
    "valued": "Samples that the round valued.",
    "window": "A stretch of the training whose samples are compared with one set of query "
    "gradients.",
    "worst place": "Place of the sample with the query (or method) that likes it least, in per "
    "cent of the ranking; 100 is last.",
}


def definition(term: str) -> str | None:
    """What a term means, whatever its case; a ranking method says it itself. None: not known."""
    term = term.strip().lower()
    return GLOSSARY.get(term) or what_it_says(term)
