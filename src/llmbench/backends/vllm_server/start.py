"""Start vLLM's server with this file's arguments.

`vllm serve` looks for the package's metadata under the name `vllm`, which builds for CPUs do not have; the module
does not.
"""

import runpy

if __name__ == "__main__":
    runpy.run_module("vllm.entrypoints.openai.api_server", run_name="__main__", alter_sys=True)
