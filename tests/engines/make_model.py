#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Make the model that the engine checks talk to: a small Llama that says known things, then stops.

*In*: a folder to fill. *Out*: the same weights as a Hugging Face folder (for vLLM) and as `model.gguf` (for
llama.cpp), and `scripts.json` with the text and the token count of each script. *Never*: a download.

A user message that contains `[[hello]]`, `[[tool]]`, `[[think]]`, `[[utf8]]` or `[[private]]` gets the script of that name, one token
a piece; any other gets `hello`. How: attention and MLP outputs are zeroed, so the next token depends on the current one
alone, and the output head is built so that each token of a script points at its successor. The zeroed layers still cost
time, which is wanted: at a few milliseconds a token a stream has a shape, and a cancel comes before the end.
"""
import argparse
import json
import pathlib
import pydoc_data.topics

import gguf
import numpy as np
from safetensors.numpy import save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

HIDDEN, LAYERS, HEADS, KV_HEADS, FFN = 256, 8, 4, 2, 1024
HEAD_DIM = HIDDEN // HEADS
CONTEXT, VOCABULARY, SEED, NORM_EPS, ROPE_BASE = 2048, 2048, 7, 1e-5, 10000.0

SCRIPTS = {
    "hello": ["The sea", " is wide", ",", " deep and", " cold;", " ships cross", " it slowly", "."],
    "tool": ["<tool_call>", '\n{"name": "set_unit"', ', "arguments": {', '"unit": "cel', 'sius"', ', "on": true', "}}\n",
             "</tool_call>"],
    "think": ["<think>", "\nLet me", " see what", " the waves", " are doing", ".\n", "</think>", "\n\nBlue", " water",
              " everywhere", "!"],
    "utf8": ["Sign: ", *(bytes([b]) for b in "🙂é海".encode()), " end"],  # one token a byte
    # what a guard masks, torn over tokens
    "private": ["Write", " to jane", ".roe@exam", "ple.org", " or pay", " 41", "11 11", "11 111", "1 1111", " today"],
}
# Chosen by the chat template as the last token of the prompt; the answer follows from it.
STARTS = {name: f"<|{name}|>" for name in SCRIPTS}
END_OF_TEXT, IM_START, IM_END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
CONTROL = [END_OF_TEXT, IM_START, IM_END, *STARTS.values()]
# Ids are given in order, so the end-of-turn token is the third.
PAD_ID, EOS_ID = 0, 2

CHAT_TEMPLATE = (
    """{%- if tools %}{{- '<|im_start|>system\n' }}
{%- if messages[0].role == 'system' %}{{- messages[0].content + '\n\n' }}{%- endif %}
{{- '# Tools\nCall a function inside <tool_call></tool_call> tags as JSON with name and arguments.\n<tools>' }}
{%- for tool in tools %}{{- '\n' }}{{- tool | tojson }}{%- endfor %}
{{- '\n</tools><|im_end|>\n' }}
{%- elif messages[0].role == 'system' %}{{- '<|im_start|>system\n' + messages[0].content + '<|im_end|>\n' }}
{%- endif %}
{%- for m in messages %}
{%- if m.role == 'user' or (m.role == 'system' and not loop.first) %}
{{- '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}
{%- elif m.role == 'assistant' %}{{- '<|im_start|>assistant\n' }}
{%- if m.reasoning_content %}{{- '<think>\n' + m.reasoning_content + '\n</think>\n\n' }}{%- endif %}
{%- if m.content %}{{- m.content }}{%- endif %}
{%- for c in m.tool_calls or [] %}
{%- if c.function %}{%- set c = c.function %}{%- endif %}
{{- '\n<tool_call>\n{"name": "' + c.name + '", "arguments": ' }}
{%- if c.arguments is string %}{{- c.arguments }}{%- else %}{{- c.arguments | tojson }}{%- endif %}
{{- '}\n</tool_call>' }}
{%- endfor %}
{{- '<|im_end|>\n' }}
{%- elif m.role == 'tool' %}
{{- '<|im_start|>user\n<tool_response>\n' + m.content + '\n</tool_response><|im_end|>\n' }}
{%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}
{%- if messages[-1].role == 'user' %}"""
    + "".join(f"{{%- if '[[{name}]]' in messages[-1].content %}}{{{{- '{start}' }}}}{{%- endif %}}" for name, start in STARTS.items())
    + "{%- endif %}{%- endif %}"
)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", required=True, type=pathlib.Path)
    out = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    tokenizer, pieces = make_tokenizer()
    weights = make_weights(tokenizer)
    write_hugging_face(out, tokenizer, weights)
    write_gguf(out, tokenizer, weights, pieces)
    write_json(out / "scripts.json", {
        name: {"text": b"".join(as_bytes(p) for p in script).decode(), "tokens": len(script) + 1}  # and the end token
        for name, script in SCRIPTS.items()})
    print(f"{out}: {sum(w.size for w in weights.values()) / 1e6:.1f}M parameters, {tokenizer.get_vocab_size()} tokens")


def make_tokenizer():
    """A byte-level BPE trained on Python's own help texts, in which every piece of a script is one token."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    tokenizer.decoder = decoders.ByteLevel()
    corpus = list(pydoc_data.topics.topics.values())[:60]
    tokenizer.train_from_iterator(corpus, trainers.BpeTrainer(
        vocab_size=VOCABULARY, special_tokens=[END_OF_TEXT, IM_START, IM_END], show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet()))
    tokenizer.add_special_tokens([AddedToken(s, special=True, normalized=False) for s in STARTS.values()])
    pieces = {p for script in SCRIPTS.values() for p in script if isinstance(p, str) and len(p) > 1}
    # sorted: a set has no order, and the ids must be the same in every run
    tokenizer.add_tokens([AddedToken(p, special=False, normalized=False) for p in sorted(pieces)])
    return tokenizer, pieces


def make_weights(tokenizer):
    """Random layers whose outputs are zeroed, and an output head in which each token points at its successor."""
    rng = np.random.default_rng(SEED)
    vocab = tokenizer.get_vocab_size()

    def noise(*shape):
        return rng.standard_normal(shape, dtype=np.float32) * np.float32(shape[-1] ** -0.5)

    embed = noise(vocab, HIDDEN)
    embed /= np.linalg.norm(embed, axis=1, keepdims=True)
    weights = {"model.embed_tokens.weight": embed, "model.norm.weight": np.ones(HIDDEN, np.float32),
               "lm_head.weight": make_head(tokenizer, embed, rng)}
    for layer in range(LAYERS):
        shapes = {"self_attn.q_proj": (HIDDEN, HIDDEN), "self_attn.k_proj": (KV_HEADS * HEAD_DIM, HIDDEN),
                  "self_attn.v_proj": (KV_HEADS * HEAD_DIM, HIDDEN), "mlp.gate_proj": (FFN, HIDDEN), "mlp.up_proj": (FFN, HIDDEN)}
        prefix = f"model.layers.{layer}."
        weights |= {f"{prefix}{name}.weight": noise(*shape) for name, shape in shapes.items()}
        weights |= {f"{prefix}self_attn.o_proj.weight": np.zeros((HIDDEN, HIDDEN), np.float32),
                    f"{prefix}mlp.down_proj.weight": np.zeros((HIDDEN, FFN), np.float32),
                    f"{prefix}input_layernorm.weight": np.ones(HIDDEN, np.float32),
                    f"{prefix}post_attention_layernorm.weight": np.ones(HIDDEN, np.float32)}
    return weights


def make_head(tokenizer, embed, rng):
    byte_ids = {byte: tokenizer.token_to_id(char) for char, byte in byte_alphabet().items()}
    successor = {}
    for name, script in SCRIPTS.items():
        ids = [tokenizer.token_to_id(STARTS[name]),
               *(byte_ids[p[0]] if isinstance(p, bytes) or len(p) == 1 else tokenizer.token_to_id(p)
                 for p in map(single_byte, script)), EOS_ID]
        for token, following in zip(ids, ids[1:]):
            assert successor.setdefault(token, following) == following, f"{name}: a token with two successors"
    # The newline ends "<|im_start|>assistant\n", the prompt of a message that names no script.
    successor[byte_ids[ord("\n")]] = successor[tokenizer.token_to_id(STARTS["hello"])]
    head = np.zeros_like(embed)
    for token, following in successor.items():
        head[following] += 5 * embed[token]
    # Every other token leads, weakly, to a random one outside the scripts: text for requests that ignore the end.
    controls = {tokenizer.token_to_id(c) for c in CONTROL}
    for token, following in enumerate(rng.permutation(len(embed))):
        if token not in successor and following not in successor.values() and following not in controls:
            head[following] += 2 * embed[token]
    return head


def single_byte(piece):
    """A one-character piece is the byte's own token; a longer one was added to the vocabulary."""
    return piece.encode() if isinstance(piece, str) and len(piece) == 1 else piece


def as_bytes(piece):
    return piece if isinstance(piece, bytes) else piece.encode()


def byte_alphabet():
    """The printable stand-in of each byte in a byte-level vocabulary, as GPT-2 chose them."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + n): byte for n, byte in enumerate(others)}


def write_json(path, value):
    path.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n")


def write_hugging_face(out, tokenizer, weights):
    tokenizer.save(str(out / "tokenizer.json"))
    save_file(weights, str(out / "model.safetensors"), metadata={"format": "pt"})
    ends = {"bos_token_id": PAD_ID, "eos_token_id": EOS_ID, "pad_token_id": PAD_ID}
    write_json(out / "config.json", {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": HIDDEN, "intermediate_size": FFN,
        "num_hidden_layers": LAYERS, "num_attention_heads": HEADS, "num_key_value_heads": KV_HEADS, "head_dim": HEAD_DIM,
        "vocab_size": tokenizer.get_vocab_size(), "hidden_act": "silu", "max_position_embeddings": CONTEXT,
        "rms_norm_eps": NORM_EPS, "rope_theta": ROPE_BASE, "tie_word_embeddings": False, "attention_bias": False,
        "mlp_bias": False, "torch_dtype": "float32", "initializer_range": 0.02, **ends})
    write_json(out / "generation_config.json", ends)
    write_json(out / "special_tokens_map.json", {"eos_token": IM_END, "pad_token": END_OF_TEXT})
    write_json(out / "tokenizer_config.json", {
        "tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": CONTEXT, "bos_token": None, "eos_token": IM_END,
        "pad_token": END_OF_TEXT, "unk_token": None, "add_bos_token": False, "clean_up_tokenization_spaces": False,
        "chat_template": CHAT_TEMPLATE})


GGUF_NAMES = {"self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
              "self_attn.o_proj": "attn_output", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up",
              "mlp.down_proj": "ffn_down", "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm"}


def write_gguf(out, tokenizer, weights, pieces):
    writer = gguf.GGUFWriter(str(out / "model.gguf"), "llama")
    writer.add_name("scripted")
    writer.add_context_length(CONTEXT)
    writer.add_embedding_length(HIDDEN)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(FFN)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_layer_norm_rms_eps(NORM_EPS)
    writer.add_rope_dimension_count(HEAD_DIM)
    writer.add_rope_freq_base(ROPE_BASE)
    add_gguf_tokenizer(writer, tokenizer, pieces)
    for name, tensor in weights.items():
        writer.add_tensor(*gguf_tensor(name, tensor))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def add_gguf_tokenizer(writer, tokenizer, pieces):
    tokens = sorted(tokenizer.get_vocab(), key=tokenizer.get_vocab().get)
    kind = gguf.TokenType
    writer.add_vocab_size(len(tokens))
    writer.add_file_type(0)  # all tensors are 32-bit floats
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_types([int(kind.CONTROL if t in CONTROL else kind.USER_DEFINED if t in pieces else kind.NORMAL)
                            for t in tokens])
    merges = json.loads(tokenizer.to_str())["model"]["merges"]
    writer.add_token_merges([m if isinstance(m, str) else " ".join(m) for m in merges])
    writer.add_bos_token_id(PAD_ID)
    writer.add_eos_token_id(EOS_ID)
    writer.add_pad_token_id(PAD_ID)
    writer.add_add_bos_token(False)
    writer.add_chat_template(CHAT_TEMPLATE)


def gguf_tensor(name, tensor):
    outer = {"model.embed_tokens.weight": "token_embd.weight", "model.norm.weight": "output_norm.weight",
             "lm_head.weight": "output.weight"}
    if name in outer:
        return outer[name], tensor
    _, _, layer, rest = name.split(".", 3)
    rest = rest.removesuffix(".weight")
    heads = {"self_attn.q_proj": HEADS, "self_attn.k_proj": KV_HEADS}.get(rest)
    if heads:  # Hugging Face keeps the two halves of a rotary pair apart, llama.cpp side by side
        tensor = tensor.reshape(heads, 2, -1, HIDDEN).swapaxes(1, 2).reshape(tensor.shape)
    return f"blk.{layer}.{GGUF_NAMES[rest]}.weight", np.ascontiguousarray(tensor)


if __name__ == "__main__":
    main()
