"""Chat templates as model families have them, in the words of this test, with small tokenizers."""

from __future__ import annotations

from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

# name -> (special tokens, begin token, end token, template)
TEMPLATES = {
    "chatml": (
        ["<|im_start|>", "<|im_end|>"],
        None,
        "<|im_end|>",
        "{% if messages[0].role != 'system' %}<|im_start|>system\nYou are a helpful model."
        "<|im_end|>\n{% endif %}{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}"
        "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}",
    ),
    "llama3": (
        ["<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"],
        "<|begin_of_text|>",
        "<|eot_id|>",
        "{{ bos_token }}{% for m in messages %}<|start_header_id|>{{ m.role }}<|end_header_id|>\n\n"
        "{{ m.content | trim }}<|eot_id|>{% endfor %}{% if add_generation_prompt %}"
        "<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}",
    ),
    "mistral": (
        ["<s>", "</s>", "[INST]", "[/INST]"],
        "<s>",
        "</s>",
        "{{ bos_token }}{% if messages[0].role == 'system' %}{% set sys = messages[0].content %}"
        "{% set rest = messages[1:] %}{% else %}{% set sys = '' %}{% set rest = messages %}"
        "{% endif %}{% for m in rest %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}"
        "{{ raise_exception('roles must alternate user/assistant') }}{% endif %}"
        "{% if m.role == 'user' %}[INST] {% if loop.first and sys %}{{ sys }}\n\n{% endif %}"
        "{{ m.content }}[/INST]{% else %} {{ m.content | trim }}{{ eos_token }}{% endif %}"
        "{% endfor %}",
    ),
    "gemma": (
        ["<bos>", "<eos>", "<start_of_turn>", "<end_of_turn>"],
        "<bos>",
        "<eos>",
        "{{ bos_token }}{% if messages[0].role == 'system' %}{% set first = messages[0].content "
        "~ '\n\n' %}{% set rest = messages[1:] %}{% else %}{% set first = '' %}"
        "{% set rest = messages %}{% endif %}{% for m in rest %}<start_of_turn>"
        "{{ 'model' if m.role == 'assistant' else m.role }}\n{{ first if loop.first else '' }}"
        "{{ m.content | trim }}<end_of_turn>\n{% endfor %}"
        "{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}",
    ),
    "phi": (
        ["<|system|>", "<|user|>", "<|assistant|>", "<|end|>", "<|endoftext|>"],
        None,
        "<|endoftext|>",
        "{% for m in messages %}<|{{ m.role }}|>\n{{ m.content }}<|end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|assistant|>\n{% else %}{{ eos_token }}{% endif %}",
    ),
    "zephyr": (
        ["<s>", "</s>"],
        "<s>",
        "</s>",
        "{% for m in messages %}<|{{ m.role }}|>\n{{ m.content }}{{ eos_token }}\n"
        "{% if loop.last and add_generation_prompt %}<|assistant|>\n{% endif %}{% endfor %}",
    ),
    "deepseek": (
        ["<|begin|>", "<|endofsentence|>", "<|User|>", "<|Assistant|>"],
        "<|begin|>",
        "<|endofsentence|>",
        "{{ bos_token }}{% for m in messages %}{% if m.role == 'system' %}{{ m.content }}"
        "{% elif m.role == 'user' %}<|User|>{{ m.content }}{% else %}<|Assistant|>"
        "{{ m.content.split('</think>')[-1] }}{{ eos_token }}{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}<|Assistant|><think>\n{% endif %}",
    ),
    "trimming": (
        ["<s>", "</s>"],
        "<s>",
        "</s>",
        "{{ bos_token }}{%- for m in messages %}{{ m.role | upper }}: {{ m.content.strip() }}"
        "{% if m.role == 'assistant' %}{{ eos_token }}{% else %}\n{% endif %}{% endfor %}"
        "{%- if add_generation_prompt %}ASSISTANT: {% endif %}",
    ),
    "marked": (
        ["<|im_start|>", "<|im_end|>"],
        None,
        "<|im_end|>",
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.role == 'assistant' %}"
        "{% generation %}{{ m.content }}<|im_end|>{% endgeneration %}{% else %}{{ m.content }}"
        "<|im_end|>{% endif %}\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}",
    ),
    "tools": (
        ["<|im_start|>", "<|im_end|>"],
        None,
        "<|im_end|>",
        "{% if tools %}<|im_start|>system\nTools: {{ tools | tojson }}<|im_end|>\n{% endif %}"
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}"
        "{% for c in m.tool_calls or [] %}<call>{{ c.function | tojson }}</call>{% endfor %}"
        "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}",
    ),
}  # fmt: skip


def tokenizer_of(name: str) -> PreTrainedTokenizerFast:
    """Bytes as tokens, and a few merges, so that tokens reach over the edges of words."""
    special, begin, end, template = TEMPLATES[name]
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = [("Ġ", "a"), ("i", "s"), ("Ċ", "Ċ"), (":", "Ġ"), ("t", "h"), ("th", "e"), (".", "Ċ")]
    words = [*letters, *(a + b for a, b in merges)]
    model = models.BPE({word: i for i, word in enumerate(words)}, merges)
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token=begin, eos_token=end, pad_token=end
    )
    fast.add_special_tokens({"additional_special_tokens": special})
    fast.chat_template = template
    return fast
