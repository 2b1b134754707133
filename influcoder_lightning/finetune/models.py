"""Models, tokenizers and adapters, from a hub name or a folder; nothing of theirs is run."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext, redirect_stderr
from importlib.util import find_spec
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from influcoder_lightning.errors import ConfigError
from influcoder_lightning.files import is_gguf, why_no_file, why_no_model
from influcoder_lightning.finetune import saved_adapter
from influcoder_lightning.random_streams import streams_kept

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def device() -> torch.device:
    """Where the recipes compute: the accelerator, else the CPU."""
    found = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    return found or torch.device("cpu")


def load_tokenizer(
    name: str, option: str = "model.name", revision: str | None = None
) -> PreTrainedTokenizerBase:
    """A tokenizer with a pad token, by hub name or local folder.

    Args:
        name: of the folder or on the hub.
        option: that the name was given as, for messages.
        revision: branch, tag or commit on the hub.

    Raises:
        ConfigError: it cannot be loaded, or has neither a pad nor an end token.
    """
    from transformers import AutoTokenizer

    _refuse_no_model(name, option)
    try:
        tokenizer = AutoTokenizer.from_pretrained(**_where(name, revision))
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


def n_embeddings(name: str, revision: str | None = None) -> int | None:
    """How many token ids a model knows, by its configuration; None where that does not say.

    Its weights are not read. What is wrong with the model shows when it is loaded.
    """
    from transformers import AutoConfig

    _refuse_no_model(name)
    try:
        config = AutoConfig.from_pretrained(**_where(name, revision))
        found = config.get_text_config().vocab_size
    except Exception:  # a file from elsewhere
        return None
    return found if isinstance(found, int) else None


def load_base_model(
    name: str,
    *,
    dtype: str = "float32",
    quantization: str = "none",
    attn_implementation: str | None = None,
    revision: str | None = None,
    gradient_checkpointing: bool = False,
) -> Any:
    """A causal LM, by hub name, local folder or GGUF file; no remote code is run.

    Args:
        name: of the folder or file, or on the hub.
        dtype: of its weights; ``auto``: as they are saved.
        quantization: ``4bit`` (nf4) or ``8bit`` of its linear layers, by bitsandbytes; ``none``.
        attn_implementation: as transformers names them; None: its own choice.
        revision: branch, tag or commit on the hub.
        gradient_checkpointing: compute activations anew in the backward pass.

    Raises:
        ConfigError: it cannot be loaded, or cannot do what is asked for.
    """
    from transformers import AutoModelForCausalLM

    _refuse_no_model(name)
    chosen: dict[str, Any] = _quantized(quantization, dtype)
    if attn_implementation is not None:
        chosen["attn_implementation"] = attn_implementation
    try:
        with _without_bars() if is_gguf(name) else nullcontext():
            model = AutoModelForCausalLM.from_pretrained(
                **_where(name, revision),
                dtype=dtype if dtype == "auto" else getattr(torch, dtype),
                **chosen,
            )
        if gradient_checkpointing:
            model.gradient_checkpointing_enable({"use_reentrant": False})
    except Exception as error:
        raise ConfigError(_not_loadable("model", name, error)) from error
    return model


def _without_bars() -> AbstractContextManager[object]:
    """transformers' bar about a GGUF file, which its own switch does not turn off."""
    return redirect_stderr(StringIO())


def _quantized(quantization: str, dtype: str) -> dict[str, Any]:
    """Arguments of ``from_pretrained`` for a quantised base.

    Raises:
        ConfigError: bitsandbytes is not installed.
    """
    if quantization == "none":
        return {}
    if find_spec("bitsandbytes") is None:
        raise ConfigError(
            f"model.quantization={quantization} needs bitsandbytes: pip install "
            "'influcoder-lightning[hf]'."
        )
    from transformers import BitsAndBytesConfig

    if quantization == "8bit":
        return {"quantization_config": BitsAndBytesConfig(load_in_8bit=True)}
    compute = torch.float32 if dtype == "auto" else getattr(torch, dtype)
    four = BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=compute
    )
    return {"quantization_config": four}


def add_lora(model: PreTrainedModel, lora: Mapping[str, Any], seed: int = 0) -> PeftModel:
    """The model with a fresh LoRA, in train mode (from_pretrained leaves eval mode).

    Args:
        model: a causal LM; it is changed in place. ``unload()`` of the result gives it back.
        lora: ``r``, ``alpha``, ``dropout``, ``target_modules`` (names, or "all-linear"), and what
            else the section ``lora`` of the command has, under PEFT's own names.
        seed: of the initial weights; the global random state is left as it was.

    Raises:
        ConfigError: settings that PEFT refuses, or no module of these names.
    """
    from peft import LoraConfig, get_peft_model

    targets = lora.get("target_modules", "all-linear")
    try:
        config = LoraConfig(
            r=int(lora.get("r", 8)),
            lora_alpha=_either(lora, "lora_alpha", "alpha", 16),
            lora_dropout=float(_either(lora, "lora_dropout", "dropout", 0.0)),
            target_modules=targets if isinstance(targets, str) else list(targets),
            task_type="CAUSAL_LM",
            **_further(lora),
        )
        with streams_kept():
            torch.manual_seed(seed)
            adapted = get_peft_model(model, config)
    except (ValueError, TypeError) as error:
        raise ConfigError(f"lora={dict(lora)} does not work with this model: {error}") from error
    return adapted.train()


def _either(lora: Mapping[str, Any], name: str, short: str, default: float) -> Any:
    """A setting under PEFT's name or under the short one."""
    value = lora.get(name)
    return lora.get(short, default) if value is None else value


def _further(lora: Mapping[str, Any]) -> dict[str, Any]:
    """PEFT's options that are given; what is not keeps PEFT's default."""
    known = {"r", "alpha", "dropout", "lora_alpha", "lora_dropout", "target_modules"}
    found = {name: value for name, value in lora.items() if name not in known and value is not None}
    if found.get("init_lora_weights") == "default":
        del found["init_lora_weights"]
    return found


def load_model(name: str, lora: Mapping[str, Any], seed: int = 0, **options: Any) -> PeftModel:
    """`load_base_model`, which takes ``options``, then `add_lora`."""
    return add_lora(load_base_model(name, **options), lora, seed)


def load_adapter(model: PreTrainedModel, folder: str | Path) -> PeftModel:
    """The model with a LoRA that was saved before, trainable.

    Which modules it adapts is read from its weights, so that no regular expression of the file's
    is run; see :mod:`~influcoder_lightning.finetune.saved_adapter` for the settings that are taken.

    Raises:
        ConfigError: the folder holds no adapter, or one of another model.
    """
    from peft import PeftModel

    folder = Path(folder)
    refuse_no_adapter(folder)
    try:
        config = saved_adapter.lora_config(folder, [name for name, _ in model.named_modules()])
        adapted = PeftModel.from_pretrained(model, str(folder), is_trainable=True, config=config)
        return adapted.train()
    except Exception as error:  # PEFT raises whatever a hostile value runs into
        first = " ".join(str(error).split()) or type(error).__name__
        raise ConfigError(
            f"the adapter in {folder} does not fit the model: {first:.500}"
        ) from error


def refuse_no_adapter(folder: str | Path) -> None:
    """Raise ``ConfigError`` where a folder holds no adapter."""
    for name in (saved_adapter.CONFIG, saved_adapter.WEIGHTS):
        if why := why_no_file(Path(folder) / name):
            raise ConfigError(
                f"model.adapter={folder}: no {name} there ({why}). Give a folder written by "
                "save_pretrained of a PEFT model."
            )


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


def _where(name: str, revision: str | None) -> dict[str, Any]:
    """Arguments of ``from_pretrained``: a folder, a name on the hub, or a GGUF file."""
    found = {"pretrained_model_name_or_path": name, "revision": revision or "main"}
    if is_gguf(name):
        found |= {"pretrained_model_name_or_path": str(Path(name).parent)}
        found |= {"gguf_file": Path(name).name}
    return {**found, "trust_remote_code": False}


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
