"""Serves the GGUF file of its first argument on loopback, for the key of its second, with the context of
its third in tokens, until standard input ends.

Prints its address. Imports nothing of the project, so that it starts at once.
"""

from __future__ import annotations

import sys

import xllamacpp


def main(model: str, key: str, context: str) -> None:
    parameters = xllamacpp.CommonParams()
    parameters.model.path = model
    parameters.hostnames = ["127.0.0.1"]
    parameters.port = 0
    parameters.api_keys = [key]
    parameters.n_ctx = int(context)
    parameters.n_parallel = 1
    parameters.n_gpu_layers = 0
    # More threads wait for each other by spinning, which takes the machine from everything else.
    parameters.cpuparams.n_threads = 1
    parameters.cpuparams_batch.n_threads = 1
    parameters.endpoint_slots = True
    parameters.endpoint_metrics = True
    parameters.ui = False
    server = xllamacpp.Server(parameters)
    sys.stdout.write(f"{server.listening_address}\n")
    sys.stdout.flush()
    sys.stdin.read()


if __name__ == "__main__":
    main(*sys.argv[1:])
