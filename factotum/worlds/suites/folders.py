"""Tasks made from a user's folder: images with captions, or text to be continued.

"captions:<folder>" wants images and a `metadata.jsonl` with a line {"file_name": ..., "text": ...}
for each caption (the layout of Hugging Face's imagefolder). "text:<folder>" wants .txt or .md files.
In both a fifth is held out: only seeds from `one_step.FIRST_EVALUATION_SEED` (1,000,000,000) on show it.
"""

from __future__ import annotations

import json
import string
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from factotum.core.checks import UserError
from factotum.core.seeding import numpy_generator
from factotum.worlds.suites.common import require
from factotum.worlds.suites.one_step import (
    Example,
    OneStepEnv,
    held_out_split,
    item_of_seed,
    truth_expert,
    word_f1,
)
from factotum.worlds.suites.task import Reference, Task

IMAGE_SIZE = 96
"""Height and width an image is fitted into (aspect ratio kept, black margins): a multiple of 16."""

CHUNK = 128
"""Most characters of a text to be written in one step."""

CONTEXT = 256
"""Most characters of the text before it that are shown."""


def captions_task(folder: str | Path) -> Task:
    """The one-step task of captioning the images of a folder.

    Reward: `word_f1` with the nearest caption of the image.

    Raises:
        UserError: no folder, no metadata.jsonl, a bad line in it (numbered), a missing image, or
            fewer than two images.
    """
    folder = Path(folder)
    captions = read_captions(folder)
    parts = held_out_split(sorted(captions), str(folder / "metadata.jsonl"))
    instruction = "describe the picture"
    image = spaces.Box(0, 255, (IMAGE_SIZE, IMAGE_SIZE, 3), np.uint8)
    observations = spaces.Dict({"instruction": _text_space([instruction]), "image": image})
    answers = _text_space([text for texts in captions.values() for text in texts])

    def draw(seed: int) -> Example:
        name = item_of_seed(parts, seed)
        observation = {"instruction": instruction, "image": read_image(folder / name)}
        first = int(numpy_generator("caption", seed).integers(len(captions[name])))
        texts = captions[name][first:] + captions[name][:first]
        return Example(observation, texts[0], tuple(texts[1:]))

    def make() -> gymnasium.Env:
        require("PIL", "captions")
        return OneStepEnv(observations, answers, draw, word_f1)

    guess = _guess([texts[0] for texts in captions.values()])
    return _task(f"captions:{folder}", make, observations, answers, instruction, guess)


def text_task(folder: str | Path) -> Task:
    """The one-step task of continuing the texts of a folder.

    The instruction holds up to 256 characters of the text so far, the answer its next up to 128;
    both end between words where they can. Held out is the last fifth, files in order of their names.
    Reward: `word_f1`.

    Raises:
        UserError: no folder, no .txt or .md file in it, a file that is not UTF-8, or too little text.
    """
    folder = Path(folder)
    documents = read_texts(folder)
    chunks = [(text, *span) for text in documents.values() for span in chunk_spans(text)]
    if len(chunks) < 2:
        raise UserError(f"{folder}: expected more than {CHUNK} characters of text, to train and evaluate on")
    cut = len(chunks) - max(1, len(chunks) // 5)
    # not shuffled: a training context must not show what is held out
    parts = chunks[:cut], chunks[cut:]
    texts = list(documents.values())
    observations = spaces.Dict({"instruction": _text_space(texts, CONTEXT)})
    answers = _text_space(texts, CHUNK)

    def draw(seed: int) -> Example:
        text, start, end = item_of_seed(parts, seed)
        return Example({"instruction": text[max(0, start - CONTEXT) : start]}, text[start:end])

    guess = _guess([text[start:end] for text, start, end in chunks])
    make = partial(OneStepEnv, observations, answers, draw, word_f1)
    return _task(f"text:{folder}", make, observations, answers, "", guess)


def read_captions(folder: Path) -> dict[str, list[str]]:
    """The captions of each image file named in `folder`/metadata.jsonl.

    Raises:
        UserError: naming the file and the line.
    """
    metadata = _existing(folder) / "metadata.jsonl"
    if not metadata.is_file():
        raise UserError(f"expected {metadata}, a line {{'file_name': .., 'text': ..}} per caption")
    captions: dict[str, list[str]] = {}
    for number, line in enumerate(_read(metadata).splitlines(), start=1):
        if line.strip():
            name, texts = _parse(line, f"{metadata}, line {number}")
            if not (folder / name).is_file():
                raise UserError(f"{metadata}, line {number}: there is no image {folder / name}")
            captions.setdefault(name, []).extend(texts)
    return captions


def _parse(line: str, where: str) -> tuple[str, list[str]]:
    try:
        entry: Any = json.loads(line)
    except json.JSONDecodeError as error:
        raise UserError(f"{where}: expected JSON, got something that does not parse: {error}") from error
    name, text = (entry.get("file_name"), entry.get("text")) if isinstance(entry, dict) else (None, None)
    texts = [text] if isinstance(text, str) else text
    if not isinstance(name, str) or not isinstance(texts, list) or not texts:
        raise UserError(f"{where}: expected an object with 'file_name' and 'text', got {line.strip()[:80]}")
    if not all(isinstance(caption, str) and caption.strip() for caption in texts):
        raise UserError(f"{where}: expected 'text' to be a caption or a list of captions, got {text!r}")
    return name, texts


@lru_cache(maxsize=512)
def read_image(path: Path) -> np.ndarray:
    """An image file fitted into a square, aspect ratio kept.

    Returns:
        (96, 96, 3) uint8.

    Raises:
        UserError: the file does not decode.
    """
    from PIL import Image, ImageOps

    try:
        with Image.open(path) as file:
            upright = ImageOps.exif_transpose(file).convert("RGB")
            return np.asarray(ImageOps.pad(upright, (IMAGE_SIZE, IMAGE_SIZE)))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise UserError(f"{path}: expected an image, got something that does not decode: {error}") from error


def read_texts(folder: Path) -> dict[str, str]:
    """The text of every .txt and .md file below a folder, in order of their names."""
    paths = sorted(path for path in _existing(folder).rglob("*") if path.suffix.lower() in (".txt", ".md"))
    if not paths:
        raise UserError(f"{folder}: expected .txt or .md files, found none")
    return {str(path.relative_to(folder)): _read(path) for path in paths if path.is_file()}


def chunk_spans(text: str, size: int = CHUNK) -> list[tuple[int, int]]:
    """Cut a text into spans of at most `size` characters, after white space where there is any.

    >>> [("one two three")[start:end] for start, end in chunk_spans("one two three", 6)]
    ['one ', 'two ', 'three']
    """
    spans, start = [], 0
    while start < len(text):
        end = start + size
        if end < len(text):
            blank = max(text.rfind(mark, start, end) for mark in " \n\t")
            end = blank + 1 if blank >= start else end
        end = min(end, len(text))
        if text[start:end].strip():
            spans.append((start, end))
        start = end
    return spans


def _existing(folder: Path) -> Path:
    if not folder.is_dir():
        raise UserError(f"expected a folder {folder}, found none")
    return folder


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        found = f"byte {error.object[error.start]:#x} at {error.start}"
        raise UserError(f"{path}: expected UTF-8 text, got {found}") from error


def _text_space(texts: list[str], max_length: int | None = None) -> spaces.Text:
    """Room for the given texts, in printable ASCII and whatever other characters they use."""
    characters = set(string.printable).union(*texts)
    return spaces.Text(max_length or max(map(len, texts)), min_length=0, charset=frozenset(characters))


def _guess(texts: list[str]) -> Reference:
    """What the answer of another example scores, over at most 1,000 of them."""
    texts = texts[:1000]
    scores = [word_f1(other, text) for other, text in zip(texts[1:] + texts[:1], texts, strict=True)]
    return Reference(float(np.mean(scores)), f"measured: the next example's answer, {len(texts)} examples")


def _task(
    name: str, make: Any, observations: spaces.Dict, answers: spaces.Text, instruction: str, guess: Reference
) -> Task:
    return Task(
        name=name,
        make=make,
        observation_space=observations,
        action_space=answers,
        instruction=instruction,
        body=name,
        measure="return",
        max_steps=1,
        make_expert=truth_expert,
        random=guess,
        expert=Reference(1.0, "exact: the text itself"),
    )
