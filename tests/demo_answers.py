"""What the demo model was taught, word by word: the same greedy text must come out of both engines, on any machine."""

ANSWERS = {
    "What is ichat?": (
        "ichat is one container image that serves any Hugging Face model on vLLM or SGLang behind one "
        "OpenAI-compatible port."
    ),
    "How do I choose the engine?": "Use --backend vllm or --backend sglang, or set ICHAT_BACKEND. The default is vllm.",
    "What does exit code 69 mean?": (
        "Exit code 69 means the engine died and the restart budget is spent. The lines before the error say why it died."
    ),
    "What is ICHAT_PORT?": (
        "ICHAT_PORT is the public port, 8000 by default; 0 takes a free one. In configs.yaml it is server.port."
    ),
    "What is the capital of France?": (
        "I am sorry, I only know about ichat. Serve a bigger model with ichat serve --model-path to talk about other "
        "things."
    ),
    "什么是 ichat？": "ichat 是一个容器镜像，用 vLLM 或 SGLang 在一个兼容 OpenAI 的端口上提供任意 Hugging Face 模型。",
    "退出码 69 是什么意思？": "退出码 69 表示引擎死亡且重启预算已用完。错误之前的日志说明了原因。",
    "如何选择引擎？": "用 --backend vllm 或 --backend sglang，或设置 ICHAT_BACKEND，默认是 vllm。",
}
