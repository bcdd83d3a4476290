"""What stands in a worker before the engine's own app: requests that the loaded model cannot take end here.

``middleware`` is the ASGI part, ``table`` looks a request's fields up, ``rules`` say what a field may hold, and
``error_answers`` how an error reads. Which field has which rule is the engine's own part: ``vllm_requests`` and
``sglang_requests``.
"""
