"""vLLM's own choices for models on a card that is not there: from its arguments to the built model, no kernel launched.

Reads {"card": [9, 0], "models": {name: argv}} from standard input; writes a line of JSON for each model: what was
chosen, or the traceback. The order is that of ichat's backend and of vLLM's worker.
"""

import sys
import tempfile

from tests.cuda.inside import choices, fake_gpu, one_by_one


def walk(argv: list[str]) -> dict[str, object]:
    from vllm.engine.arg_utils import AsyncEngineArgs
    from vllm.entrypoints.launchers.cli_args import make_arg_parser, validate_parsed_serve_args
    from vllm.platforms import current_platform
    from vllm.usage.usage_lib import UsageContext
    from vllm.utils.argparse_utils import FlexibleArgumentParser
    from vllm.v1.sample.ops.topk_topp_sampler import flashinfer_sampler_supported

    arguments = make_arg_parser(FlexibleArgumentParser()).parse_args(argv)
    validate_parsed_serve_args(arguments)
    engine_arguments = AsyncEngineArgs.from_cli_args(arguments)
    config = engine_arguments.create_engine_config(usage_context=UsageContext.OPENAI_API_SERVER)
    current_platform.import_kernels()
    return {
        **choices.of_model(build(config)),
        "quantization": config.model_config.quantization,
        "runner": config.model_config.runner_type,
        "sampler": "flashinfer" if flashinfer_sampler_supported() else "torch",
        "graphs": str(config.compilation_config.cudagraph_mode),
    }


def build(config):  # type: ignore[no-untyped-def]
    from vllm.config import set_current_vllm_config
    from vllm.distributed import parallel_state
    from vllm.model_executor.model_loader.utils import initialize_model

    from tests.cuda.inside.on_card import on_card

    meeting = f"file://{tempfile.mkdtemp()}/store"
    with set_current_vllm_config(config):
        # What carries messages between processes is not NCCL; all else of the groups is as on a card.
        parallel_state.init_distributed_environment(1, 0, meeting, 0, "gloo")
        parallel_state.ensure_model_parallel_initialized(1, 1)
        with on_card(config.model_config.dtype):
            return initialize_model(vllm_config=config)


if __name__ == "__main__":
    request = one_by_one.request()
    fake_gpu.install(tuple(request["card"]))
    import vllm.model_executor.models.registry as registry
    import vllm.v1.worker.gpu_worker  # noqa: F401  once, before the forks

    # It would ask a process of its own what a class can do, which knows nothing of the card.
    registry._run_in_subprocess = lambda function: function()
    sys.exit(one_by_one.serve(walk, request["models"]))
