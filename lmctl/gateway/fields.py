"""Every field of every API that a request may carry, with what it may hold, and those refused with the reason.

The names are those of OpenAI's, Anthropic's and Ollama's API references, of llama-server's README, of mlx_lm.server
and of vLLM's extra parameters. A field in none of these tables never reaches an engine (`bodies.checked`).
"""

from __future__ import annotations

from lmctl.gateway.contents import conversation, images, messages, messages_or_text, template_variables, tools
from lmctl.gateway.rules import (
    INT32,
    INT64,
    MAX_NAME,
    MAX_SCHEMA,
    MAX_STOPS,
    Rule,
    anything,
    biases,
    either,
    empty,
    flag,
    never,
    none,
    number,
    one_of,
    prompts,
    sized,
    table,
    text,
    texts,
    whole,
)

_MANY = 4096  # characters of a text that identifies something
_ANSWERS = 8  # answers to one request; each takes a slot of the engine
_TOKENS = whole(0, INT32)
_PENALTY = number(-100, 100)
_SHARE = number(0, 1)
_NAME = text(MAX_NAME)
_SCHEMA = sized(MAX_SCHEMA)
_STOP = either(text(_MANY), texts(MAX_STOPS, _MANY))

_WEIGHTS = "the declaration says which weights serve a model"
_TEMPLATE = "the chat template comes with the model"
_ELSEWHERE = "requests are answered by the engines of this machine, and nothing is fetched"
_SLOTS = "the engine shares its slots and caches by itself"
_INSIDE = "it is the engine's own and not for clients"
_LOADING = "it is decided when the model is loaded: declare it in the profile"

_REFUSED: dict[str, Rule] = {
    # mlx_lm.server loads whatever repository `adapters` and `draft_model` name; others take files, or lists of both.
    **dict.fromkeys(["adapters", "adapter", "adapter_path", "draft_model", "lora", "lora_path"], never(_WEIGHTS)),
    **dict.fromkeys(["lora_request", "speculative", "num_draft_tokens", "mmproj", "model_path"], never(_WEIGHTS)),
    # Jinja or Go templates: programs that the engine runs.
    **dict.fromkeys(["chat_template", "template", "role_mapping"], never(_TEMPLATE)),
    # Where a proxy sends a request, and with which key.
    **dict.fromkeys(["api_base", "base_url", "api_key", "api_version", "extra_headers"], never(_ELSEWHERE)),
    **dict.fromkeys(["mcp_servers", "kv_transfer_params", "fallbacks", "custom_llm_provider"], never(_ELSEWHERE)),
    # How files are read and decoded (vLLM); names of Python objects to import (vLLM).
    **dict.fromkeys(["media_io_kwargs", "mm_processor_kwargs", "logits_processors"], never(_INSIDE)),
    # Another client's slot; turning the cache off makes every request as dear as its whole prompt.
    **dict.fromkeys(["id_slot", "slot_id", "cache_prompt", "n_cache_reuse", "priority"], never(_SLOTS)),
    # llama-server writes these for itself when it has rendered a chat; values that do not fit end the process.
    **dict.fromkeys(["chat_format", "chat_parser", "generation_prompt", "preserved_tokens"], never(_INSIDE)),
    **dict.fromkeys(["grammar_lazy", "grammar_triggers", "grammar_type"], never(_INSIDE)),
}

# How the next token is chosen; llama-server's names, with those of mlx_lm.server and vLLM for the same.
_SAMPLING: dict[str, Rule] = {
    "temperature": number(0, 100),
    "dynatemp_range": number(0, 100),
    "dynatemp_exponent": number(0, 100),
    "top_k": whole(-1, INT32),
    **dict.fromkeys(["top_p", "min_p", "typical_p", "xtc_probability", "xtc_threshold"], _SHARE),
    "top_n_sigma": _PENALTY,
    **dict.fromkeys(["repeat_penalty", "repetition_penalty", "presence_penalty", "frequency_penalty"], _PENALTY),
    **dict.fromkeys(["repeat_last_n", "dry_penalty_last_n"], whole(-1, INT32)),
    **dict.fromkeys(["repetition_context_size", "presence_context_size", "frequency_context_size"], _TOKENS),
    "dry_multiplier": _PENALTY,
    "dry_base": _PENALTY,
    "dry_allowed_length": _TOKENS,
    "dry_sequence_breakers": texts(MAX_STOPS, 256),
    "mirostat": whole(0, 2),
    **dict.fromkeys(["mirostat_tau", "mirostat_eta", "adaptive_target", "adaptive_decay"], _PENALTY),
    "seed": whole(-(2**63), 2**64 - 1),
    "samplers": either(text(32), texts(32, 32)),
    "min_keep": _TOKENS,
    "logit_bias": biases,
    "stop": _STOP,
    # Every token counts against the context; -1, which llama-server reads as no end, is refused.
    **dict.fromkeys(["max_tokens", "max_completion_tokens", "n_predict", "min_tokens"], _TOKENS),
    "n_keep": whole(-1, INT32),
    "n_discard": _TOKENS,
    "n_indent": _TOKENS,
    "ignore_eos": flag,
    "t_max_predict_ms": whole(-1, INT64),
}

# What is compiled to a grammar: its size is bounded, its content is the engine's business.
_CONSTRAINED: dict[str, Rule] = {
    **dict.fromkeys(["response_format", "json_schema", "grammar", "structured_outputs"], _SCHEMA),
    **dict.fromkeys(["guided_json", "guided_regex", "guided_choice", "guided_grammar"], _SCHEMA),
}

_STREAMED: dict[str, Rule] = {"stream": flag, "stream_options": table(_MANY)}

# Said to OpenAI about an account, a price or a cache; engines ignore it. A cloud that a profile falls back to does not.
_ACCOUNT: dict[str, Rule] = {
    **dict.fromkeys(["user", "safety_identifier", "prompt_cache_key", "service_tier"], text(_MANY)),
    "prompt_cache_retention": text(_MANY),
    "metadata": table(MAX_SCHEMA),
    "store": flag,
}

_REASONING: dict[str, Rule] = {
    **dict.fromkeys(["reasoning_effort", "reasoning_format", "verbosity"], text(32)),
    **dict.fromkeys(["reasoning_budget", "reasoning_budget_tokens", "thinking_budget_tokens"], whole(-1, INT32)),
    "include_reasoning": flag,
    "chat_template_kwargs": template_variables,
    "add_generation_prompt": flag,
    "continue_final_message": either(flag, text(32)),
}

_TOOLS: dict[str, Rule] = {
    "tools": tools,
    "functions": tools,
    "tool_choice": sized(_MANY),
    "function_call": sized(_MANY),
    "parallel_tool_calls": flag,
    "parse_tool_calls": flag,
}

_TOLD: dict[str, Rule] = {  # what an answer tells besides its text
    "logprobs": either(flag, whole(0, 20)),
    "top_logprobs": whole(0, 20),
    "n_probs": whole(0, 20),
    **dict.fromkeys(["post_sampling_probs", "return_tokens", "return_progress", "timings_per_token"], flag),
    "echo": flag,
    "n": whole(1, _ANSWERS),
    "n_cmpl": whole(1, _ANSWERS),
    "best_of": whole(1, _ANSWERS),
}

_GENERATED = {**_REFUSED, "model": _NAME, **_SAMPLING, **_CONSTRAINED, **_STREAMED, **_ACCOUNT, **_TOLD}

_CHAT = {
    **_GENERATED,
    **_REASONING,
    **_TOOLS,
    "messages": messages,
    "modalities": texts(4, 16),
    "audio": table(_MANY),  # the voice of an answer
    "prediction": anything,  # text that the answer is expected to be; it is only compared with
}

_COMPLETIONS = {**_GENERATED, "prompt": prompts, "suffix": text(INT32)}

_RESPONSES = {
    **_REFUSED,
    **_REASONING,
    **_TOOLS,
    **_STREAMED,
    **_ACCOUNT,
    "model": _NAME,
    "input": messages_or_text,
    "instructions": messages_or_text,
    # A conversation kept by the server: engines keep none and say so, an answer without it would be a wrong one.
    "previous_response_id": _NAME,
    "conversation": sized(_MANY),
    "background": flag,
    "include": texts(32, 128),
    **dict.fromkeys(["max_output_tokens", "max_tool_calls"], _TOKENS),
    **{name: _SAMPLING[name] for name in ("temperature", "top_p", "top_k", "min_p", "seed", "logit_bias")},
    **{name: _SAMPLING[name] for name in ("presence_penalty", "frequency_penalty", "stop")},
    "top_logprobs": _TOLD["top_logprobs"],
    "reasoning": table(_MANY),
    "text": _SCHEMA,
    "truncation": text(32),
}

_EMBEDDINGS: dict[str, Rule] = {
    **_REFUSED,
    "model": _NAME,
    "input": prompts,
    "user": text(_MANY),
    "encoding_format": text(32),
    "dimensions": whole(1, 2**20),
    "embd_normalize": whole(-1, INT32),
}

_RERANK: dict[str, Rule] = {
    **_REFUSED,
    "model": _NAME,
    "query": text(INT32),
    "documents": texts(2048, INT32),
    "texts": texts(2048, INT32),
    "top_n": whole(1, INT32),
    **dict.fromkeys(["return_documents", "return_text"], flag),
}

_COUNTED: dict[str, Rule] = {
    **_REFUSED,
    "model": _NAME,
    "messages": messages,
    "system": messages_or_text,
    "tools": tools,
    "tool_choice": table(_MANY),
    "thinking": table(_MANY),  # {"type": "enabled", "budget_tokens": …}
    **dict.fromkeys(["output_config", "output_format"], _SCHEMA),
    "cache_control": table(_MANY),
}

_MESSAGES = {
    **_COUNTED,
    "max_tokens": _TOKENS,
    "stop_sequences": texts(MAX_STOPS, _MANY),
    **{name: _SAMPLING[name] for name in ("temperature", "top_k", "top_p")},
    "stream": flag,
    "metadata": table(_MANY),
    "service_tier": text(32),
    "chat_template_kwargs": template_variables,
}

_OLLAMA: dict[str, Rule] = {
    **_REFUSED,
    "model": _NAME,
    "options": anything,  # each one is checked against OPTIONS
    "keep_alive": either(number(-INT32, INT32), text(32)),  # the profile's `ttl` holds
}

_OLLAMA_GENERATED = {
    **_OLLAMA,
    "stream": flag,
    "format": empty(either(one_of("json"), table(MAX_SCHEMA))),
    "think": either(flag, text(32)),
    "logprobs": flag,
    "top_logprobs": whole(0, 20),
    **dict.fromkeys(["truncate", "shift"], flag),
}

# Fields of the request bodies, by the name of the endpoint.
FIELDS: dict[str, dict[str, Rule]] = {
    "chat": _CHAT,
    "completions": _COMPLETIONS,
    "responses": _RESPONSES,
    "embeddings": _EMBEDDINGS,
    "rerank": _RERANK,
    "messages": _MESSAGES,
    "count_tokens": _COUNTED,
    "ollama_show": {"model": _NAME, "name": _NAME, "verbose": flag},
    "ollama_chat": {**_OLLAMA_GENERATED, "messages": conversation, "tools": tools},
    "ollama_generate": {
        **_OLLAMA_GENERATED,
        **dict.fromkeys(["prompt", "system"], text(INT32)),
        # clients in Go send them with nothing in them
        "template": empty(never(_TEMPLATE)),
        "suffix": empty(never("no engine here inserts text")),
        "context": none(never("send the messages to /api/chat")),
        "images": images,
        "raw": flag,
    },
    "ollama_embed": {**_OLLAMA, "input": prompts, "truncate": flag, "dimensions": whole(1, 2**20)},
    "ollama_embeddings": {**_OLLAMA, "prompt": text(INT32)},
}

# Ollama's `options`. Its clients send `num_ctx` by themselves: it is dropped like an unknown one, since the declared
# context holds; what else decides how a model is loaded is refused.
OPTIONS: dict[str, Rule] = {
    **_REFUSED,
    **_SAMPLING,
    "num_predict": whole(-2, INT32),  # -1 and -2 set no limit: what the profile and the context allow
    "num_keep": whole(-1, INT32),
    "tfs_z": _PENALTY,
    "penalize_newline": flag,
    **dict.fromkeys(["num_batch", "num_gpu", "main_gpu", "num_thread", "numa", "low_vram", "f16_kv"], never(_LOADING)),
    **dict.fromkeys(["use_mmap", "use_mlock", "logits_all", "vocab_only"], never(_LOADING)),
}

# What a request cannot be answered without; asked for here so that no model is loaded for nothing.
REQUIRED: dict[str, tuple[str, ...]] = {
    "chat": ("messages",),
    "completions": ("prompt",),
    "responses": ("input",),
    "embeddings": ("input",),
    "rerank": ("query",),
    "messages": ("messages",),
    "count_tokens": ("messages",),
    "ollama_embed": ("input",),
    "ollama_embeddings": ("prompt",),
}
