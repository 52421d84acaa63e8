"""Chat templates of our own in the manner of well-known families, and odd ones, with the tokens that they need."""

from typing import Any

from tiny_tokenizers import byte_level
from tokenizers import AddedToken
from transformers import PreTrainedTokenizerFast

_PROMPT = "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"

# ChatML with a system message of its own, tools and tool calls.
QWEN25 = (
    "{% set first = messages[0] %}"
    "{% set has_system = first.role == 'system' %}"
    "<|im_start|>system\n{{ first.content if has_system else 'You help.' }}"
    "{% if tools %}\n\n<tools>{% for tool in tools %}\n{{ tool | tojson }}{% endfor %}\n</tools>{% endif %}<|im_end|>\n"
    "{% for m in messages %}{% if not (loop.first and has_system) %}"
    "{% if m.role == 'tool' %}<|im_start|>user\n<tool_response>\n{{ m.content }}\n</tool_response><|im_end|>\n"
    "{% else %}<|im_start|>{{ m.role }}\n{{ m.content }}"
    "{% for call in m.tool_calls or [] %}{% set f = call.function or call %}"
    '\n<tool_call>\n{"name": "{{ f.name }}", "arguments": {{ f.arguments | tojson }}}\n</tool_call>{% endfor %}'
    "<|im_end|>\n{% endif %}{% endif %}{% endfor %}" + _PROMPT
)
# Thoughts stand only in the turns after the last question; the last answer always has a place for them.
QWEN3 = (
    "{% set ns = namespace(last=-1) %}"
    "{% for m in messages %}{% if m.role == 'user' %}{% set ns.last = loop.index0 %}{% endif %}{% endfor %}"
    "{% for m in messages %}"
    "{% if m.role == 'assistant' %}"
    "{% set content = m.content %}{% set thought = m.reasoning_content or '' %}"
    "{% if not thought and '</think>' in content %}"
    "{% set thought = content.split('</think>')[0].split('<think>')[-1].strip('\\n') %}"
    "{% set content = content.split('</think>')[-1].lstrip('\\n') %}{% endif %}"
    "{{ '<|im_start|>assistant\\n' }}"
    "{% if loop.index0 > ns.last and (loop.last or thought) %}"
    "{{ '<think>\\n' + thought.strip('\\n') + '\\n</think>\\n\\n' + content.lstrip('\\n') }}"
    "{% else %}{{ content }}{% endif %}"
    "{% for call in m.tool_calls or [] %}{% set f = call.function or call %}"
    "{{ '\\n<tool_call>\\n' }}{{ {'name': f.name, 'arguments': f.arguments} | tojson }}"
    "{{ '\\n</tool_call>' }}{% endfor %}"
    "{% elif m.role == 'tool' %}{{ '<|im_start|>user\\n<tool_response>\\n' + m.content + '\\n</tool_response>' }}"
    "{% else %}{{ '<|im_start|>' + m.role + '\\n' + m.content }}{% endif %}{{ '<|im_end|>\\n' }}{% endfor %}" + _PROMPT
)
# The generation prompt holds an empty thought, and so does the last answer.
QWEN3_NO_THINKING = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\\n' }}"
    "{% if m.role == 'assistant' and loop.last %}{{ '<think>\\n\\n</think>\\n\\n' }}{% endif %}"
    "{{ m.content + '<|im_end|>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n<think>\\n\\n</think>\\n\\n' }}{% endif %}"
)
# No generation prompt, a space before the answer, no system role, strict turns.
MISTRAL_V1 = (
    "{{ bos_token }}{% for m in messages %}"
    "{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('Roles must alternate') }}{% endif %}"
    "{% if m.role == 'user' %}{{ ' [INST] ' + m.content + ' [/INST]' }}"
    "{% else %}{{ ' ' + m.content + eos_token }}{% endif %}{% endfor %}"
)
# Tools and the system message stand before the last question; calls and results are JSON, with ids of nine characters.
MISTRAL_V3 = (
    "{% set ns = namespace(last=-1, system='') %}"
    "{% for m in messages %}{% if m.role == 'user' %}{% set ns.last = loop.index0 %}{% endif %}"
    "{% if m.role == 'system' %}{% set ns.system = m.content + '\\n\\n' %}{% endif %}{% endfor %}"
    "{{ bos_token }}{% for m in messages %}"
    "{% if m.role == 'user' %}{% if tools and loop.index0 == ns.last %}"
    "{{ '[AVAILABLE_TOOLS]' }}{{ tools | tojson }}{{ '[/AVAILABLE_TOOLS]' }}{% endif %}"
    "{{ '[INST]' + (ns.system if loop.index0 == ns.last else '') + m.content + '[/INST]' }}"
    "{% elif m.role == 'tool' %}{{ '[TOOL_RESULTS]' }}"
    "{{ {'content': m.content, 'call_id': m.tool_call_id} | tojson }}{{ '[/TOOL_RESULTS]' }}"
    "{% elif m.tool_calls %}{{ '[TOOL_CALLS][' }}{% for call in m.tool_calls %}"
    "{% if call.id | length != 9 %}{{ raise_exception('ids have 9 characters') }}{% endif %}"
    "{{ {'name': call.function.name, 'arguments': call.function.arguments, 'id': call.id} | tojson }}"
    "{{ '' if loop.last else ', ' }}{% endfor %}{{ ']' + eos_token }}"
    "{% elif m.role == 'assistant' %}{{ m.content + eos_token }}{% endif %}{% endfor %}"
)
# The system message is put into the first question.
LLAMA2 = (
    "{% set ns = namespace(system='') %}{% for m in messages %}"
    "{% if m.role == 'system' %}{% set ns.system = '<<SYS>>\\n' + m.content + '\\n<</SYS>>\\n\\n' %}"
    "{% elif m.role == 'user' %}{{ bos_token + '[INST] ' + ns.system + m.content.strip() + ' [/INST]' }}"
    "{% set ns.system = '' %}"
    "{% else %}{{ ' ' + m.content.strip() + ' ' + eos_token }}{% endif %}{% endfor %}"
)
# Headers, trimmed contents; a call ends in a token of its own.
LLAMA3 = (
    "{{ bos_token }}"
    "{% for m in messages %}"
    "{{ '<|header|>' + ('ipython' if m.role == 'tool' else m.role) + '<|/header|>\\n\\n' }}"
    "{% if m.tool_calls %}{% set f = m.tool_calls[0].function %}"
    "{{ '{\"name\": \"' + f.name + '\", \"parameters\": ' }}{{ f.arguments | tojson }}{{ '}<|eom|>' }}"
    "{% elif m.role == 'tool' %}{{ m.content | tojson }}{{ '<|eot|>' }}"
    "{% else %}{{ m.content | trim + '<|eot|>' }}{% endif %}"
    "{% if loop.first and tools %}{% for t in tools %}{{ t | tojson(indent=4) }}{% endfor %}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|header|>assistant<|/header|>\\n\\n' }}{% endif %}"
)
# No system role; the assistant is called model; contents are trimmed.
GEMMA = (
    "{{ bos_token }}{% if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    "{% for m in messages %}"
    "{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('Roles must alternate') }}{% endif %}"
    "{{ '<start_of_turn>' + ('model' if m.role == 'assistant' else m.role) + '\\n' }}"
    "{{ m.content | trim + '<end_of_turn>\\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<start_of_turn>model\\n' }}{% endif %}"
)
# The end of the text stands after the last turn.
PHI3 = (
    "{% for m in messages %}{{ '<|' + m.role + '|>\\n' + m.content + '<|end|>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\\n' }}{% else %}{{ eos_token }}{% endif %}"
)
PHI4 = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '<|im_sep|>' + m.content + '<|im_end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant<|im_sep|>' }}{% endif %}"
)
# The generation prompt is asked for within the loop.
ZEPHYR = (
    "{% for m in messages %}{{ '<|' + m.role + '|>\\n' + m.content + eos_token + '\\n' }}"
    "{% if loop.last and add_generation_prompt %}{{ '<|assistant|>\\n' }}{% endif %}{% endfor %}"
)
GENERATION_BLOCKS = (
    "{% for m in messages %}{% if m.role == 'assistant' %}<|im_start|>assistant\n"
    "{% generation %}{{ m.content }}<|im_end|>{% endgeneration %}\n"
    "{% else %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endif %}{% endfor %}" + _PROMPT
)
DATED = "{{ strftime_now('%d %b %Y') }}\n" + PHI4
# What a message says decides on the generation prompt, and leaves no trace in the whole.
SWITCHED = (
    "{% set ns = namespace(quick=false) %}"
    "{% for m in messages %}{% if '/quick' in m.content %}{% set ns.quick = true %}{% endif %}"
    "{{ '<|im_start|>' + m.role + '\\n' }}{% if m.role == 'assistant' %}{{ '<quick>' }}{% endif %}"
    "{{ m.content + '<|im_end|>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' + ('<quick>' if ns.quick else '') }}{% endif %}"
)
# Contents side by side: nothing but the end tokens between them.
DENSE = "{% for m in messages %}{{ m.content + eos_token }}{% endfor %}"

FAMILIES = {
    "qwen2.5": QWEN25,
    "qwen3": QWEN3,
    "qwen3-no-thinking": QWEN3_NO_THINKING,
    "mistral-v1": MISTRAL_V1,
    "mistral-v3": MISTRAL_V3,
    "llama-2": LLAMA2,
    "llama-3": LLAMA3,
    "gemma": GEMMA,
    "phi-3": PHI3,
    "phi-4": PHI4,
    "zephyr": ZEPHYR,
    "generation-blocks": GENERATION_BLOCKS,
    "dated": DATED,
    "switched": SWITCHED,
    "dense": DENSE,
}
WITH_TOOLS = ("qwen2.5", "qwen3", "mistral-v3", "llama-3")

_BODY = "{% for m in messages %}{{ '<|im_start|>' + m.role + '\\n' + CONTENT + '<|im_end|>\\n' }}{% endfor %}" + _PROMPT
UPPERCASE = _BODY.replace("CONTENT", "m.content | upper")
ALWAYS_PROMPTING = _BODY.replace("CONTENT", "m.content").partition("{% if add")[0] + "{{ '<|im_start|>assistant\\n' }}"
DROPS_SYSTEM = _BODY.replace("CONTENT", "('' if m.role == 'system' else m.content)")
DROPS_QUESTION = _BODY.replace("CONTENT", "('' if m.role == 'user' else m.content)")
SHORTENS = _BODY.replace("CONTENT", "m.content[:20]")
TWICE = "{{ messages[0].content }}\n" + _BODY.replace("CONTENT", "m.content")
ATTRIBUTES = "{{ ''.__class__.__mro__[1].__subclasses__() }}" + TWICE
RECURSIVE = "{% macro again(n) %}{{ again(n) }}{% endmacro %}{{ again(1) }}"
ENDLESS = "{% for a in range(99999) %}{% for b in range(99999) %}{% set c = b %}{% endfor %}{% endfor %}" + TWICE
GIGANTIC = "{% for a in range(99999) %}{% for b in range(99999) %}{{ 'gigantic' * 99 }}{% endfor %}{% endfor %}"
MULTIPLIED = "{{ 'x' * 30000000 }}" + TWICE
RANDOM = "{{ ['a', 'b'] | random }}" + TWICE
ODD_TURNS = "{% if messages | length % 2 %}{{ raise_exception('odd') }}{% endif %}" + TWICE
DIVIDES = "{{ 1 // 0 }}" + TWICE

ADDED = ["<|im_start|>", "<|im_end|>", "<|im_sep|>", "<|header|>", "<|/header|>", "<|eot|>", "<|eom|>"]
ADDED += [
    "<start_of_turn>",
    "<end_of_turn>",
    "<|end|>",
    "<tool_call>",
    "</tool_call>",
    "[INST]",
    "[/INST]",
    "[TOOL_CALLS]",
]


def family_tokenizer(chat_template: Any, **options: Any) -> PreTrainedTokenizerFast:
    """A byte-level tokenizer that knows the families' tokens."""
    return with_family_tokens(byte_level(chat_template=chat_template, **options))


def with_family_tokens(tokenizer: PreTrainedTokenizerFast) -> PreTrainedTokenizerFast:
    """Add the families' tokens to a tokenizer."""
    tokenizer.add_tokens([AddedToken(token, special=not token.startswith("<tool")) for token in ADDED])
    tokenizer.add_tokens([AddedToken("</tool_call>", special=False)])
    return tokenizer
