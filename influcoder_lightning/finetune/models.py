"""Models, tokenizers and adapters, from a hub name or a folder; nothing of theirs is run."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from influcoder_lightning.errors import ConfigError
from influcoder_lightning.files import why_no_file, why_no_model
from influcoder_lightning.finetune import saved_adapter
from influcoder_lightning.random_streams import streams_kept

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def device() -> torch.device:
    """Where the recipes compute: the accelerator, else the CPU."""
    found = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    return found or torch.device("cpu")


def load_tokenizer(name: str, option: str = "model.name") -> PreTrainedTokenizerBase:
    """A tokenizer with a pad token, by hub name or local folder.

    Args:
        name: of the folder or on the hub.
        option: that the name was given as, for messages.

    Raises:
        ConfigError: it cannot be loaded, or has neither a pad nor an end token.
    """
    from transformers import AutoTokenizer

    _refuse_no_model(name, option)
    try:
        tokenizer = AutoTokenizer.from_pretrained(name, trust_remote_code=False)
    except Exception as error:
        raise ConfigError(_not_loadable("tokenizer", name, error, option)) from error
    if tokenizer.pad_token_id is None:
        if tokenizer.eos_token is None:
            raise ConfigError(
                f"the tokenizer of {name!r} has neither a pad nor an end token; give it one with "
                "tokenizer.add_special_tokens and save it."
            )
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def n_embeddings(name: str) -> int | None:
    """How many token ids a model knows, by its configuration; None where that does not say.

    Its weights are not read. What is wrong with the model shows when it is loaded.
    """
    from transformers import AutoConfig

    _refuse_no_model(name)
    try:
        config = AutoConfig.from_pretrained(name, trust_remote_code=False)
        found = config.get_text_config().vocab_size
    except Exception:  # a file from elsewhere
        return None
    return found if isinstance(found, int) else None


def load_base_model(name: str) -> Any:
    """A causal LM in float32, by hub name or local folder; no remote code is run.

    Raises:
        ConfigError: it cannot be loaded.
    """
    from transformers import AutoModelForCausalLM

    _refuse_no_model(name)
    try:
        return AutoModelForCausalLM.from_pretrained(
            name, dtype=torch.float32, trust_remote_code=False
        )
    except Exception as error:
        raise ConfigError(_not_loadable("model", name, error)) from error


def add_lora(model: PreTrainedModel, lora: Mapping[str, Any], seed: int = 0) -> PeftModel:
    """The model with a fresh LoRA, in train mode (from_pretrained leaves eval mode).

    Args:
        model: a causal LM; it is changed in place. ``unload()`` of the result gives it back.
        lora: ``r``, ``alpha``, ``dropout``, ``target_modules`` (names, or "all-linear").
        seed: of the initial weights; the global random state is left as it was.

    Raises:
        ConfigError: settings that PEFT refuses, or no module of these names.
    """
    from peft import LoraConfig, get_peft_model

    targets = lora.get("target_modules", "all-linear")
    try:
        config = LoraConfig(
            r=int(lora.get("r", 8)),
            lora_alpha=lora.get("alpha", 16),
            lora_dropout=float(lora.get("dropout", 0.0)),
            target_modules=targets if isinstance(targets, str) else list(targets),
            task_type="CAUSAL_LM",
        )
        with streams_kept():
            torch.manual_seed(seed)
            adapted = get_peft_model(model, config)
    except (ValueError, TypeError) as error:
        raise ConfigError(f"lora={dict(lora)} does not work with this model: {error}") from error
    return adapted.train()


def load_model(name: str, lora: Mapping[str, Any], seed: int = 0) -> PeftModel:
    """`load_base_model`, then `add_lora`."""
    return add_lora(load_base_model(name), lora, seed)


def load_adapter(model: PreTrainedModel, folder: str | Path) -> PeftModel:
    """The model with a LoRA that was saved before, trainable.

    Which modules it adapts is read from its weights, so that no regular expression of the file's
    is run; see :mod:`~influcoder_lightning.finetune.saved_adapter` for the settings that are taken.

    Raises:
        ConfigError: the folder holds no adapter, or one of another model.
    """
    from peft import PeftModel

    folder = Path(folder)
    for name in (saved_adapter.CONFIG, saved_adapter.WEIGHTS):
        if why := why_no_file(folder / name):
            raise ConfigError(
                f"model.adapter={folder}: no {name} there ({why}). Give a folder written by "
                "save_pretrained of a PEFT model."
            )
    try:
        config = saved_adapter.lora_config(folder, [name for name, _ in model.named_modules()])
        adapted = PeftModel.from_pretrained(model, str(folder), is_trainable=True, config=config)
        return adapted.train()
    except Exception as error:  # PEFT raises whatever a hostile value runs into
        first = " ".join(str(error).split()) or type(error).__name__
        raise ConfigError(
            f"the adapter in {folder} does not fit the model: {first:.500}"
        ) from error


def refuse_missing_folder(name: str, option: str) -> None:
    """A path that is not there must not be asked for at the hub, which may take minutes.

    Args:
        name: of a folder or on the hub, where it has one slash at most.
        option: that the name was given as, for the message.

    Raises:
        ConfigError: it can only be a folder, or begins with one, and is not there.
    """
    if Path(name).exists():
        return
    first, slash, _ = name.partition("/")
    if name.startswith("~"):
        raise ConfigError(f"{option}={name}: no such folder; write it without ~, as a whole path.")
    if name.startswith((".", "/")) or name.count("/") > 1:
        raise ConfigError(f"{option}={name}: no such folder.")
    if slash and Path(first).is_dir():
        raise ConfigError(
            f"{option}={name}: no such folder in ./{first}. If it is a name on the Hugging Face "
            f"hub, run where no folder is called {first!r}."
        )


def _refuse_no_model(name: str, option: str = "model.name") -> None:
    refuse_missing_folder(name, option)
    if Path(name).is_dir() and (why := why_no_model(Path(name))):
        raise ConfigError(f"{option}={name}: {why}. Give a folder written by save_pretrained.")


def _not_loadable(what: str, name: str, error: Exception, option: str = "model.name") -> str:
    first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    return (
        f"no {what} could be loaded from {option}={name!r}: {first:.300} Give a folder written by "
        "save_pretrained, or a name on the Hugging Face hub that is reachable from here."
    )
