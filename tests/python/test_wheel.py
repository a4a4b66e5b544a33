"""The wheel, as a user meets it: built with the library under test, installed into an empty virtual environment, run from there."""

import importlib.metadata
import json
import os
import subprocess
import sys
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
DEMO = ROOT / "examples" / "demo_model"
DEPENDENCIES = ("numpy", "cffi", "pycparser")

for needed in ("scikit_build_core", "auditwheel"):
    pytest.importorskip(needed)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    into = tmp_path_factory.mktemp("wheel")
    command = [ROOT / "bindings" / "python" / "make_wheel.sh", into, os.environ["CLUSTERFUSION_LIBRARY"]]
    built = subprocess.run(command, env={**os.environ, "PYTHON": sys.executable}, capture_output=True, text=True)
    assert built.returncode == 0, built.stdout + built.stderr
    path = Path(built.stdout.splitlines()[-1])
    assert path.parent == into and path.is_file()
    return path


@pytest.fixture(scope="module")
def python(wheel, tmp_path_factory):
    """The interpreter of an environment with the wheel and what it depends on, which is linked to, so that no network is needed."""
    directory = tmp_path_factory.mktemp("environment")
    venv.create(directory, with_pip=True)
    interpreter = directory / "bin" / "python"
    site = next((directory / "lib").glob("python3*/site-packages"))
    for name in DEPENDENCIES:
        distribution = importlib.metadata.distribution(name)
        for top in {file.parts[0] for file in distribution.files or () if file.parts[0] not in ("..", "__pycache__")}:
            (site / top).symlink_to(Path(str(distribution.locate_file(top))))
    pip = [interpreter, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "install", "--no-index", wheel], check=True)  # finds the dependencies there
    subprocess.run([*pip, "check"], check=True)
    return interpreter


def run(python, *arguments) -> str:
    """What a program prints, far away from the source tree and from CLUSTERFUSION_LIBRARY."""
    clean = {key: value for key, value in os.environ.items() if key not in ("CLUSTERFUSION_LIBRARY", "PYTHONPATH", "LD_LIBRARY_PATH")}
    done = subprocess.run([python, *arguments], cwd=python.parent, env=clean, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_tags(wheel):
    assert wheel.name.startswith("clusterfusion-") and "-py3-none-manylinux_2_" in wheel.name


def test_the_bundled_library_is_used(python):
    told = json.loads(run(python, "-m", "clusterfusion", "info", "--json"))
    assert told["library"].startswith(str(python.parents[1])) and told["library"].endswith("/clusterfusion/libclusterfusion.so")


def test_the_command_line_decodes(python):
    assert run(python, "-m", "clusterfusion", "generate", DEMO, "--prompt", "412+93=", "--device", "cpu") == "412+93=505\n"
    script = python.with_name("clusterfusion")
    told = subprocess.run([script, "generate", DEMO, "--prompt", "412+93=", "--json"], check=True, capture_output=True, text=True).stdout
    assert json.loads(told)["text"] == "505"


def test_greedy_tokens_are_those_of_transformers(python):
    case = json.loads((ROOT / "tests" / "golden" / "demo_tokens.json").read_text())["cases"][0]
    program = f"import clusterfusion as cf; print(list(cf.Model.from_pretrained({str(DEMO)!r}, 'cpu').generate({list(case['prompt'].encode())}, 256, stop=())))"
    assert json.loads(run(python, "-c", program)) == case["tokens"][:256]


def test_a_hub_id_without_the_package_for_it(python):
    program = "import clusterfusion as cf\ntry: cf.Model.from_pretrained('EleutherAI/pythia-70m')\nexcept ImportError as error: print(error)"
    assert "the package huggingface_hub is needed: pip install clusterfusion[hub]" in run(python, "-c", program)


# ---- Examples


def example(python, name: str, *arguments: str) -> str:
    return run(python, ROOT / "examples" / f"{name}.py", "--device", "cpu", *arguments)


def test_the_decode_loop_goes_back_and_finds_the_answer(python):
    lines = example(python, "decode_loop").splitlines()
    assert lines[-1].endswith("the likeliest: anna.") and not lines[-1].startswith("0 pages") and len(lines) == 6
    assert sum(int(line.split("went back ")[1].split()[0]) for line in lines[1:-1]) > 0
    assert example(python, "decode_loop") == "\n".join(lines) + "\n"


@pytest.mark.parametrize("drafted", [1, 4, 63])
def test_speculative_decoding_takes_fewer_steps(python, drafted):
    """It exits with an error if the tokens are not those of plain decoding."""
    done = subprocess.run(
        [python, ROOT / "examples" / "speculative.py", "--device", "cpu", "--drafted", str(drafted), "--tokens", "100"], check=True, capture_output=True, text=True
    )
    assert done.stdout.startswith("count 97 to 103: 97 98 99 100 101 102 103.\n")
    assert float(done.stderr.split(" tokens a step")[0].split()[-1]) > 1.3 and "the same tokens as of plain greedy decoding" in done.stderr


def test_the_logit_lens_ends_in_the_answer(python):
    lines = example(python, "logit_lens").splitlines()
    assert len(lines) == 5 and lines[-1].split()[-6:-2] == ["n", "n", "a", "."] and float(lines[-1].split()[-2]) > 0.99
    assert float(lines[1].split()[-2]) < 0.9
