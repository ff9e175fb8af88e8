"""What `vlrl doctor` prints about a machine."""

from vlrl.cli.doctor import doctor


def test_the_doctor_names_all_that_a_run_needs():
    found = dict(line.split(": ", 1) for line in doctor())
    assert list(found) == [
        "python", "vlrl", "torch", "transformers", "vllm", "deepspeed", "peft", "device", "cores", "memory",
        "free disk", "C++ compiler", "jail for code",
    ]  # fmt: skip
    assert int(found["cores"]) >= 1


def test_a_missing_compiler_s_line_says_what_needs_it(monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.delenv("CXX", raising=False)
    assert any(line.startswith("C++ compiler: none; DeepSpeed's") for line in doctor())
