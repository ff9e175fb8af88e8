"""A tiny checkpoint of a model that thinks, as released ones are: other settings around the same weights."""

import json
import shutil
from pathlib import Path

# What these templates write after "assistant" and a line feed, where they ask for a response; OPENS as Qwen3-VL-Thinking does,
# SWITCHES as Qwen3.5 does, whose reasoning is on unless it is turned off and is then written as an empty one.
OPENS = "<think>\n"
SWITCHES = "{% if enable_thinking is defined and not enable_thinking %}<think>\n\n</think>\n\n{% else %}<think>\n{% endif %}"
SAMPLING = {"do_sample": True, "temperature": 0.6, "top_k": 20, "top_p": 0.95}


def write_thinking(model: str, folder: Path, opening: str = OPENS) -> str:
    """A copy of a checkpoint whose chat template opens the reasoning, and which two tokens end.

    Its config.json says at the top alone that its head is its embedding, if it is.
    """
    shutil.copytree(model, folder)
    template = folder / "chat_template.jinja"
    template.write_text(template.read_text().replace("assistant\n{% endif %}", f"assistant\n{opening}{{% endif %}}"))
    (folder / "generation_config.json").write_text(json.dumps(SAMPLING | {"eos_token_id": [2, 0], "pad_token_id": 0}))
    config = json.loads((folder / "config.json").read_text())
    config["text_config"]["tie_word_embeddings"] = not config["tie_word_embeddings"]
    (folder / "config.json").write_text(json.dumps(config))
    return str(folder)
