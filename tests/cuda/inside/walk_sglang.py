"""SGLang's own choices for models on a card that is not there: from its arguments to the built model, no kernel launched.

Reads {"card": [9, 0], "models": {name: argv}} from standard input; writes a line of JSON for each model: what was
chosen, or the traceback.
"""

import sys
import tempfile

from tests.cuda.inside import choices, fake_gpu, one_by_one


def walk(argv: list[str]) -> dict[str, object]:
    from sglang.srt.arg_groups.overrides import resolving_view
    from sglang.srt.configs.model_config import ModelConfig
    from sglang.srt.plugins import load_plugins
    from sglang.srt.server_args import prepare_server_args

    load_plugins()
    arguments = prepare_server_args(argv)
    arguments.resolve_once()
    resolved = resolving_view(arguments)
    config = ModelConfig.from_server_args(arguments)
    model = build(arguments, config)
    attention = [resolved.attention_backend, resolved.prefill_attention_backend, resolved.decode_attention_backend]
    return {
        **choices.of_model(model),
        "attention": [backend for backend in attention if backend],
        "quantization": config.quantization,
        "runner": "generate" if config.is_generation else "pooling",
        "sampler": resolved.sampling_backend,
        "moe": resolved.moe_runner_backend,
    }


def build(arguments, config):  # type: ignore[no-untyped-def]
    """What its scheduler does before it loads weights; the process groups are those of a CPU."""
    from sglang.srt.configs.load_config import LoadConfig
    from sglang.srt.distributed import bootstrap, parallel_state
    from sglang.srt.layers.sampler import create_sampler
    from sglang.srt.model_loader import loader
    from sglang.srt.runtime_context import SpawnRanks, publish

    from tests.cuda.inside.on_card import on_card

    publish(arguments, role="scheduler", ranks=SpawnRanks(world_rank=0, gpu_id=0))
    # The names of the groups' devices stay the card's; only what carries messages between processes is not NCCL.
    meeting = f"file://{tempfile.mkdtemp()}/store"
    load_config = LoadConfig(load_format="dummy")
    with on_card(config.dtype):
        parallel_state.init_distributed_environment(
            backend="gloo", world_size=1, rank=0, local_rank=0, distributed_init_method=meeting
        )
        parallel_state.initialize_model_parallel(backend="gloo")
        bootstrap.initialize_dp_attention(server_args=arguments)
        bootstrap.init_layer_runtime(model_config=config)
        create_sampler()
        return loader._initialize_model(config, load_config, loader._get_quantization_config(config, load_config))


if __name__ == "__main__":
    request = one_by_one.request()
    fake_gpu.install(tuple(request["card"]))
    import sglang.srt.model_executor.model_runner  # noqa: F401  once, before the forks

    sys.exit(one_by_one.serve(walk, request["models"]))
