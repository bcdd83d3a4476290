"""A GPU that answers questions and runs nothing: what NVML and torch.cuda would say on a machine that has one.

Installed in a process before an engine is imported. Whoever asks gets the answers of a real card; whoever wants to launch
a kernel or take memory fails, as there is no driver (the stub of tests/cuda/driver.py answers with an error).
"""

import types

GIB = 2**30
# Name, memory, multiprocessors, shared memory of one of them, and of a block that asks for it: from NVIDIA's data sheets.
CARDS = {
    (8, 0): ("NVIDIA A100-SXM4-80GB", 80 * GIB, 108, 167936, 166912),
    (9, 0): ("NVIDIA H100 80GB HBM3", 80 * GIB, 132, 233472, 232448),
    (10, 0): ("NVIDIA B200", 180 * GIB, 148, 233472, 232448),
}
DRIVER = "580.95.05"
UUID = "GPU-00000000-1111-2222-3333-444444444444"


class StreamStandIn:
    """What `torch.cuda.current_stream()` returns to code that only keeps it."""

    device_index, device_type, cuda_stream, priority = 0, 1, 0, 0
    stream_id = 0

    def __init__(self, *_: object, **__: object) -> None: ...

    def __enter__(self) -> "StreamStandIn":
        return self

    def __exit__(self, *_: object) -> None: ...

    def __getattr__(self, name: str) -> object:
        if name in ("synchronize", "wait_stream", "wait_event", "record_event", "record", "wait", "query"):
            return lambda *_, **__: None
        raise AttributeError(name)


def install(capability: tuple[int, int]) -> None:
    name, memory_bytes, processors, shared_bytes, block_bytes = CARDS[capability]
    _fake_nvml(capability, name, memory_bytes)
    import torch

    properties = types.SimpleNamespace(
        name=name, major=capability[0], minor=capability[1], total_memory=memory_bytes,
        multi_processor_count=processors, warp_size=32, max_threads_per_multi_processor=2048,
        regs_per_multiprocessor=65536, shared_memory_per_multiprocessor=shared_bytes,
        shared_memory_per_block=49152, shared_memory_per_block_optin=block_bytes, L2_cache_size=50 * 2**20,
        is_integrated=0, is_multi_gpu_board=0, uuid=UUID, pci_bus_id=1, pci_device_id=0, pci_domain_id=0,
        max_threads_per_block=1024, gcnArchName="", clock_rate=1980000, memory_clock_rate=2619000, memory_bus_width=5120,
    )  # fmt: skip
    answers = {
        "is_available": True, "device_count": 1, "_device_count_nvml": 1, "_raw_device_count_nvml": 1,
        "current_device": 0, "get_device_capability": capability, "get_device_properties": properties,
        "get_device_name": name, "mem_get_info": (memory_bytes - GIB, memory_bytes), "is_initialized": False,
        "set_device": None, "synchronize": None, "empty_cache": None, "init": None, "_lazy_init": None,
        "memory_allocated": 0, "max_memory_allocated": 0, "memory_reserved": 0, "max_memory_reserved": 0,
        "reset_peak_memory_stats": None, "manual_seed": None, "manual_seed_all": None, "can_device_access_peer": True,
        "is_bf16_supported": True, "get_arch_list": ["sm_80", "sm_90", "sm_100"], "_is_in_bad_fork": False,
        "is_current_stream_capturing": False, "memory_stats": {},
    }  # fmt: skip
    for question, answer in answers.items():
        setattr(torch.cuda, question, _always(answer))
    torch.cuda.memory.mem_get_info = torch.cuda.mem_get_info
    torch.cuda.memory.empty_cache = torch.cuda.empty_cache
    for made in ("Stream", "Event"):
        setattr(torch.cuda, made, StreamStandIn)
    for given in ("current_stream", "default_stream"):
        setattr(torch.cuda, given, _always(StreamStandIn()))
    accelerator = {
        "is_available": True, "device_count": 1, "current_device_index": 0, "current_device_idx": 0,
        "current_accelerator": torch.device("cuda"), "current_stream": StreamStandIn(), "synchronize": None,
        "set_device_index": None, "set_device_idx": None, "set_stream": None, "empty_cache": None,
        "memory_allocated": 0, "max_memory_allocated": 0, "memory_reserved": 0, "max_memory_reserved": 0,
        "reset_peak_memory_stats": None, "memory_stats": {}, "get_memory_info": (memory_bytes - GIB, memory_bytes),
    }  # fmt: skip
    for question, answer in accelerator.items():
        if hasattr(torch.accelerator, question):
            setattr(torch.accelerator, question, _always(answer))
    torch._C._cuda_getDevice = _always(0)
    torch._C._cuda_getDeviceCount = _always(1)
    torch._C._cuda_getCurrentRawStream = _always(0)
    # torch's fake tensors would ask for a real one first.
    import torch._subclasses.fake_tensor as fake_tensor

    fake_tensor.init_gpu_context = _always(None)


def _always(answer: object) -> object:
    return lambda *_, **__: answer


def _fake_nvml(capability: tuple[int, int], name: str, memory_bytes: int) -> None:
    import pynvml

    modules = [pynvml]
    try:
        import vllm.third_party.pynvml as vendored
    except ImportError:
        pass
    else:
        modules.append(vendored)
    answers = {
        "nvmlInit": None, "nvmlInitWithFlags": None, "nvmlShutdown": None, "nvmlDeviceGetCount": 1,
        "nvmlDeviceGetHandleByIndex": 0, "nvmlDeviceGetHandleByUUID": 0, "nvmlDeviceGetIndex": 0,
        "nvmlDeviceGetCudaComputeCapability": capability, "nvmlDeviceGetName": name, "nvmlDeviceGetUUID": UUID,
        "nvmlSystemGetDriverVersion": DRIVER, "nvmlSystemGetCudaDriverVersion": 13000,
        "nvmlDeviceGetMemoryInfo": types.SimpleNamespace(total=memory_bytes, free=memory_bytes - GIB, used=GIB),
        "nvmlDeviceGetP2PStatus": 0, "nvmlDeviceGetNumaNodeId": 0,
        "nvmlDeviceGetPciInfo": types.SimpleNamespace(busId=b"00000000:01:00.0", domain=0, bus=1, device=0),
    }  # fmt: skip
    for module in modules:
        for question, answer in answers.items():
            setattr(module, question, _always(answer))
