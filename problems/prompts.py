"""How a problem becomes a prompt: its text in a template, as token ids.

    auto             a generated task's own notation, else the model's chat template, else `plain`
    raw              the problem alone
    plain            `Question: ... Answer:`, for base models
    chat             one user turn in the model's own chat template; Qwen3 is told not to think
    chat-thinking    the same, and Qwen3 thinks
    few-shot.txt     a file that has {problem} in it, with examples and all; or such a text itself

Special tokens come from the template only.  A problem that spells one out stays text.
"""

import functools
import json
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

INSTRUCTION = "Please reason step by step, and put your final answer within \\boxed{}."
TEMPLATES = ("auto", "raw", "plain", "chat", "chat-thinking")
HERE = "{problem}"  # the place of the problem in a template of one's own


@dataclass(frozen=True)
class Prompt:
    """How problems are asked: what train.py's flags of the same names say, and run.json of a run's folder."""

    template: str = "auto"
    system: str = ""  # a chat's system turn; none: what the chat template writes by itself
    instruction: str = INSTRUCTION  # behind the problem, in `plain` and `chat`
    stop: str = ""  # a text that ends a completion; \n and \t may be spelled out

    @property
    def stops(self) -> tuple[str, ...]:
        return (self.stop.replace("\\n", "\n").replace("\\t", "\t"),) if self.stop else ()


def trained_prompt(ran: dict, **flags: str | None) -> Prompt:
    """The prompt that a run was trained with (its run.json); flags that are given, and not auto, win.

    >>> trained_prompt({"template": "plain", "stop": ";"}, template="auto", stop=None).template
    'plain'
    """
    given = {
        name: value for name, value in flags.items() if value is not None and (name, value) != ("template", "auto")
    }
    settings = {name: ran[name] for name in Prompt.__dataclass_fields__ if name in ran} | given
    if odd := [name for name, value in settings.items() if not isinstance(value, str)]:
        raise ValueError(f"the run's {odd[0]} is {settings[odd[0]]!r}, which is not text")
    return Prompt(**settings)


def read_template(template: str) -> str:
    """The name of a template as it is, and the text of a template file; ValueError for anything else.

    The newline at the end of a file is not part of the prompt: editors add it.
    """
    if template in TEMPLATES or HERE in template:
        text = template
    else:
        try:
            text = Path(template).read_text(encoding="utf-8-sig").removesuffix("\n")
        except (OSError, ValueError):
            raise ValueError(f"template {template!r} is none of: {', '.join(TEMPLATES)}, nor a text file") from None
    if text not in TEMPLATES and text.count(HERE) != 1:
        raise ValueError(f"template {template!r} must have {HERE} in it once")
    return text


def prompt_ids(problem: str, own: str | None, vocabulary, prompt: Prompt) -> list[int]:
    """The ids of one prompt.  `own` is the prompt that a generated task writes, None for other problems."""
    template = read_template(prompt.template)
    if template == "auto":
        template = "raw" if own is not None else "chat" if vocabulary.chat_template else "plain"
        problem = problem if own is None else own
    if prompt.system and not template.startswith("chat"):
        raise ValueError(f"a system turn needs a chat template, and the template here is {template!r}")
    asked = f"{problem}\n{prompt.instruction}" if prompt.instruction else problem
    if template.startswith("chat"):
        return vocabulary.encode_inside(*chat_turn(asked, vocabulary, prompt.system, template == "chat-thinking"))
    begin = [] if vocabulary.bos_id is None else [vocabulary.bos_id]
    if template == "raw":
        return begin + vocabulary.encode(problem)
    if template == "plain":
        return begin + vocabulary.encode(f"Question: {asked}\nAnswer:")
    before, _, after = template.partition(HERE)
    ids = vocabulary.encode_inside(before, problem, after)
    return ids if ids[:1] == begin else begin + ids


# ---- the model's own chat template ----------------------------------------------------------------------------------

MARK = "\ue000\ue001\ue002"  # private-use characters, which no template looks for


def chat_turn(asked: str, vocabulary, system: str, thinking: bool) -> tuple[str, str, str]:
    """(before, asked, after): what the chat template writes for a user's turn, and where in it the user's text stands.

    The template sees the text, which it may trim, and then a mark in its place, which shows what is the template's own.
    """
    if not vocabulary.chat_template:
        raise ValueError("this model has no chat template (tokenizer_config.json, chat_template.jinja); try plain")
    program = compiled(vocabulary.chat_template)
    variables: dict[str, Any] = dict(tools=None, documents=None, add_generation_prompt=True, enable_thinking=thinking)
    variables |= {"strftime_now": datetime.now().strftime, **vocabulary.template_tokens}

    def written(user: str) -> str:
        turns = [{"role": "system", "content": system}] if system else []
        try:
            return program.render(messages=[*turns, {"role": "user", "content": user}], **variables)
        except Exception as error:  # the template is a program of somebody else's
            raise ValueError(f"the model's chat template fails ({type(error).__name__}: {error})") from None

    whole, (before, mark, after) = written(asked), written(MARK).partition(MARK)
    if not mark or not whole.startswith(before) or not whole.endswith(after) or len(whole) < len(before + after):
        raise ValueError("the chat template does not write the problem as it is; try plain, or a template file")
    return before, whole[len(before) : len(whole) - len(after)], after


@functools.lru_cache(maxsize=4)
def compiled(template: str):
    """A chat template, ready to render in the sandbox of transformers: it is a program of whoever made the model."""
    import jinja2.ext  # comes with torch
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class Generation(jinja2.ext.Extension):
        """`{% generation %}` marks what the assistant writes.  It changes nothing in the text."""

        tags = {"generation"}

        def parse(self, parser):
            next(parser.stream)
            return parser.parse_statements(("name:endgeneration",), drop_needle=True)

    def refuse(message):
        raise jinja2.TemplateError(message)

    def as_json(value, ensure_ascii=False, **options):
        return json.dumps(value, ensure_ascii=ensure_ascii, **options)

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, jinja2.ext.loopcontrols]
    )
    environment.filters["tojson"] = as_json
    environment.globals["raise_exception"] = refuse
    try:
        return environment.from_string(template)
    except jinja2.TemplateError as error:
        raise ValueError(f"the model's chat template fails ({type(error).__name__}: {error})") from None


# ---- thinking -------------------------------------------------------------------------------------------------------


def after_thinking(text: str) -> str:
    """The text behind a model's thinking, "" where the thinking does not end.

    >>> after_thinking("<think>7?</think>It is 8."), after_thinking("<think>So it is 7."), after_thinking("It is 7.")
    ('It is 8.', '', 'It is 7.')
    """
    thought, ended, rest = text.rpartition("</think>")
    return rest if ended or not text.lstrip().startswith("<think>") else ""
