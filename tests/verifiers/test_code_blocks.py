"""The code in a response: the last Python block, however it is fenced."""

import pytest

from vlrl.verifiers.code_blocks import extract_code

CODE = "def f(x):\n    return x"


@pytest.mark.parametrize(
    "language",
    [
        "python",
        "py",
        "Python",
        "PYTHON",
        "python3",
        "Python3",
        "py3",
        "python3.11",
        "{python}",
        "{.python}",
        "python title=f.py",
        "python:f.py",
        " python ",
        "",
        " ",
    ],
)
@pytest.mark.parametrize("fence", ["```", "````", "~~~"])
def test_a_block_of_python_may_be_fenced_in_many_ways(fence, language):
    assert extract_code(f"So:\n{fence}{language}\n{CODE}\n{fence}\nDone.") == CODE


@pytest.mark.parametrize("language", ["json", "text", "bash", "javascript", "pypy", "pyramid", "output"])
def test_a_block_in_another_language_is_not_the_code(language):
    assert extract_code(f"```{language}\n{CODE}\n```") is None
    assert extract_code(f"```python\n{CODE}\n```\n```{language}\nf(1)\n```") == CODE


@pytest.mark.parametrize(
    "docstring",
    [
        "'''Doc.\n    ```\n    f(1)\n    ```\n    '''",
        "'''\n```\nf(1)\n```\n'''",
        '"""Doc.\n    ```python\n    f(1)\n    ```\n    """',
        '"""With \\""" and ```."""',
        "'one line with ```'",
        "# a comment with ```",
        '"""It\'s ```."""',
    ],
)
def test_fences_in_strings_and_comments_are_part_of_the_code(docstring):
    code = f"def f(x):\n    {docstring}\n    return x"
    assert extract_code(f"```python\n{code}\n```\nSo it's done.") == code
    assert extract_code(f"```\nx = 1\n```\n```py\n{code}\n```\n```\n1\n```") == code


@pytest.mark.parametrize(
    ("response", "code"),
    [
        (f"```\n{CODE}\n```\nIt prints:\n```\n3\n```", CODE),
        (f"```\n{CODE}\n```\n```json\n[]\n```", CODE),
        (f"```python\nx = 1\n```\nBetter:\n```Python\n{CODE}\n```", CODE),
        (f"```python\n{CODE}\n```\nIt prints:\n```\n3", CODE),
        (f"```py\nx = 1\n```\n```py\n{CODE}", None),
        (f"1. So:\n   ```python\n   {CODE.replace(chr(10), chr(10) + '   ')}\n   ```", CODE),
        (f"The code: ```python\n{CODE}\n```", CODE),
        (f"```python\r\n{CODE}\r\n```\r\n", CODE),
        (f"```python\n{CODE}```", CODE),
        (f"```python\nx = 'it\n```\n```python\n{CODE}\n```", CODE),
        ("```python\n```", ""),
        ("```", None),
        ("Use `f(x)`.", None),
    ],
)
def test_the_last_block_of_python_counts(response, code):
    assert extract_code(response) == code


@pytest.mark.parametrize(
    "start",
    [
        "import math\n",
        "from math import pi\n",
        "@cache\n",
        "class A: pass\n",
        "async def g(): pass\n",
        "# A comment.\n\nimport math\n",
        "",
    ],
)
def test_a_response_that_starts_as_a_module_is_code(start):
    assert extract_code(start + CODE) == start + CODE


@pytest.mark.parametrize(
    "text", ["Import the module.", "from here on, add.", "important: add", "# Answer\nIt adds.", "x + 1", "print(3)"]
)
def test_prose_is_not_code(text):
    assert extract_code(text) is None


@pytest.mark.parametrize(
    "piece", ["```", "'''", '"""', "\\'''", "```py\n'''", "'", "```python\n", "~~~\n", "#```\n", '"""\\', "\\'"]
)
def test_a_megabyte_of_fences_and_quotes_is_read_to_its_end(piece):
    extract_code("```python\n" + piece * (10**6 // len(piece)))  # only a hang is a fault, and pytest's timeout ends it
