"""Which GPUs an instance gets: one form for what was written, and nothing given twice unless shares are said."""

import pytest


def gpus(configure, settings):
    return configure(yaml=f"models: {{m: {{model_path: org/m, {settings}}}}}").settings.models[0].gpus


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ("seed: 1", None),
        ("gpus: 2", 2),
        ("gpus: 0", 0),
        ("gpus: [0, 1]", (("0", "1"),)),
        ("gpus: [[0, 1]]", (("0", "1"),)),
        ("gpus: [[0], [1]], instances: 2", (("0",), ("1",))),
        ("gpus: [[GPU-8932f937-d72c], [MIG-GPU-1/2/0]], instances: 2", (("GPU-8932f937-d72c",), ("MIG-GPU-1/2/0",))),
        ('gpus: ["0", 1], tensor_parallel_size: 2', (("0", "1"),)),
        ("gpus: 4, tensor_parallel_size: 2, data_parallel_size: 2", 4),
        ("gpus: 8, tensor_parallel_size: 2", 8),
        ("gpus: 4, tensor_parallel_size: 8, nnodes: 2", 4),
        (
            "backend: sglang, gpus: 2, tensor_parallel_size: 2, data_parallel_size: 2, engine_args: {enable-dp-attention: true}",
            2,
        ),
        (
            "backend: sglang, gpus: 2, data_parallel_size: 2, tensor_parallel_size: 2, extra_argv: [--enable-dp-attention]",
            2,
        ),
        ("gpus: 2, data_parallel_size: 8, engine_args: {data-parallel-size-local: 2}", 2),
        ("gpus: [[0], [0]], instances: 2, memory_fraction: 0.475", (("0",), ("0",))),
        ("gpus: 0, accelerator: cpu", 0),
    ],
)
def test_what_is_written_comes_out_in_one_form(configure, settings, expected):
    assert gpus(configure, settings) == expected


def test_they_may_be_given_outside_of_the_file(configure):
    assert configure("--model-path=org/m", "--gpus=1").settings.models[0].gpus == 1
    env = {"ICHAT_MODEL_PATH": "org/m", "ICHAT_GPUS": '[["GPU-a"], [1]]', "ICHAT_INSTANCES": "2"}
    assert configure(env=env).settings.models[0].gpus == (("GPU-a",), ("1",))


def test_no_gpu_at_all_means_the_cpu(configure):
    model = configure("--model-path=org/m", "--gpus=0").settings.models[0]
    assert (model.accelerator, model.gpus) == ("cpu", 0)


def test_a_resolved_model_survives_the_way_to_its_worker(configure):
    model = configure("--model-path=org/m", "--gpus=[[0, 1]]").settings.models[0]
    assert type(model).model_validate(model.model_dump(mode="json")) == model


FORM = "expected a number of GPUs or a list of lists of their ids, found "


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ("gpus: -1", f"{FORM}`-1`."),
        ("gpus: 1.5", f"{FORM}`1.5`."),
        ("gpus: one", f"{FORM}`one`."),
        ("gpus: true", f"{FORM}`true`."),
        ("gpus: {0: 1}", f"{FORM}a mapping."),
        ("gpus: []", f"{FORM}a list."),
        ("gpus: [[]]", f"{FORM}a list."),
        ("gpus: [0, [1]]", f"{FORM}a list."),
        ("gpus: [true]", f"{FORM}a list."),
        ("gpus: [-1]", f"{FORM}a list."),
        ('gpus: ["0,1"]', f"{FORM}a list."),
        ("gpus: [[0, 0]]", "one instance gets GPU 0 twice. Name it once."),
        ('gpus: [[0, "0"]]', "one instance gets GPU 0 twice. Name it once."),
        (
            "gpus: [0, 1], instances: 2",
            "one list is for one instance, but instances is 2. Write a list of lists, one for each: [[0], [1]].",
        ),
        ("gpus: [[0], [1]]", "has 2 lists of GPUs, but instances is 1. Write one list for each instance."),
        ("gpus: [[0]], instances: 3", "has 1 list of GPUs, but instances is 3. Write one list for each instance."),
        (
            "gpus: 1, tensor_parallel_size: 2, pipeline_parallel_size: 2",
            "an instance has 1 GPU, but tensor_parallel_size 2 × pipeline_parallel_size 2 needs 4: 3 more. "
            "Add them, or lower that.",
        ),
        (
            "gpus: [[0, 1], [2]], instances: 2, data_parallel_size: 2",
            "an instance has 1 GPU, but data_parallel_size 2 needs 2: 1 more. Add them, or lower that.",
        ),
        (
            "gpus: 2, tensor_parallel_size: 8, nnodes: 2",
            "an instance has 2 GPUs, but tensor_parallel_size 8 needs 4 on each of 2 machines: 2 more. "
            "Add them, or lower that.",
        ),
    ],
)
def test_what_cannot_be_is_refused_where_it_stands(lines, settings, expected):
    (line,) = lines(yaml=f"models: {{m: {{model_path: org/m, {settings}}}}}")
    assert line.endswith(f"models.m.gpus: {expected}")
    assert line.startswith("configs.yaml:1:")


def test_a_cpu_and_gpus_do_not_go_together(lines):
    yaml = "models:\n  m:\n    model_path: org/m\n    accelerator: cpu\n    gpus: 1\n"
    assert lines(yaml=yaml) == [
        "configs.yaml:5:11 models.m.gpus: does not go with accelerator cpu (configs.yaml:4:18). Remove one of them."
    ]
    assert "does not go with accelerator cuda" in lines(yaml=yaml.replace("cpu", "cuda").replace("1\n", "0\n"))[0]


SHARED = """\
models:
  a:
    model_path: org/a
    gpus: [[0, 1], [2]]
    instances: 2
    memory_fraction: 0.5
  b:
    model_path: org/b
    gpus: ["1"]
    memory_fraction: 0.45
"""


def test_shares_of_a_gpu_may_be_said(configure):
    assert [model.gpus for model in configure(yaml=SHARED).settings.models] == [(("0", "1"), ("2",)), (("1",),)]


def test_shares_must_leave_something_and_both_lines_are_told(lines):
    assert lines(yaml=SHARED.replace("0.45", "0.46")) == [
        "configs.yaml:10:22 models.b.memory_fraction: the instances on GPU 1 take 0.96 of its memory, more than 0.95: "
        "a 0.5 (configs.yaml:6:22), b 0.46 (configs.yaml:10:22). Lower them."
    ]


def test_a_gpu_given_twice_without_shares_is_refused_with_both_lines(lines):
    assert lines(yaml=SHARED.replace("    memory_fraction: 0.45\n", "")) == [
        "configs.yaml:9:11 models.b.gpus: GPU 1 is given to an instance of a too (configs.yaml:4:12). Give each its own, "
        "or say memory_fraction for all that share it (missing for b)."
    ]


def test_two_instances_of_one_model_are_told_apart(lines):
    yaml = "models:\n  m:\n    model_path: org/m\n    instances: 2\n    gpus:\n    - [0]\n    - [0]\n"
    assert lines(yaml=yaml) == [
        "configs.yaml:7:7 models.m.gpus.1: GPU 0 is given to an instance of m too (configs.yaml:6:7). Give each its own, "
        "or say memory_fraction for all that share it (missing for m)."
    ]


def test_a_model_that_is_not_selected_holds_no_gpu(configure):
    yaml = SHARED.replace("    memory_fraction: 0.45\n", "")
    assert configure(yaml=yaml, env={"ICHAT_MODELS": "b"}).settings.models[0].gpus == (("1",),)
