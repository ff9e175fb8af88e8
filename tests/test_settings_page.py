"""The page of all settings: each has its sentence, its default and what it may be."""

import re

from docs_site.links import ROOT
from docs_site.settings_page import allowed, blocks, page, section_in, settings, unsaid
from vlrl.config import Config


def test_every_setting_and_every_section_has_its_sentence():
    assert unsaid() == [], 'write "name: what it is, and when to change it." into the docstring of the class'


def test_the_page_has_a_row_for_each_setting_under_its_section_s_heading():
    text = page()
    for block in blocks():
        heading = f"## `{block.path}`\n" if block.path else "## The run\n"
        section = text[text.index(heading) :].split("\n## ")[0]
        assert re.findall(r"^\| `(\w+)` \|", section, re.MULTILINE) == settings(block.section)


def test_sections_in_mappings_and_optional_sections_are_found():
    paths = {block.path: block.is_optional for block in blocks()}
    assert not paths["mixture.TASK.reward"] and not paths["scoring.judges.NAME"] and paths["lora"] and paths["mlflow"]


def test_what_a_setting_may_be_is_said_in_words():
    text = page()
    assert "| `weight` | **required**<br>number above 0 |" in text
    assert "| `gate` | `sapo`<br>`sapo`, `grpo`, `gspo`, `gspo_token`, `pg` |" in text
    assert "| `max_tokens_per_micro_batch` | `auto`<br>whole number from 1 or `auto` |" in text
    assert all(allowed(each) for each in Config.model_json_schema()["properties"].values() if "type" in each)


def test_every_setting_that_a_document_names_is_there():
    names = {f"{block.path}.{name}".lstrip(".") for block in blocks() for name in block.section.model_fields}
    sections = "|".join(name for name, field in Config.model_fields.items() if section_in(field.annotation))
    named = {
        (document.name, setting)
        for document in (ROOT / "README.md", *(ROOT / "docs").rglob("*.md"))
        for setting in re.findall(rf"`((?:{sections})\.[\w.]+)(?=[`=:])", document.read_text())
    }
    assert len(named) > 60
    unknown = (
        {setting.replace("mixture.NAME.", "mixture.TASK.") for _, setting in named} - names - {block.path for block in blocks()}
    )
    assert not unknown
