"""A language model behind any OpenAI-compatible endpoint: many requests at once, retries, budget, cache.

The ``openai`` package does the exchange: back-off, ``Retry-After`` and time-outs are its. The key is taken from the environment
when a client is made; it is never stored, logged or said in an error.
"""

from __future__ import annotations

import asyncio
import json
import os
import threading
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from inversionview.analyses.interpret.cache import AnswerCache
from inversionview.analyses.interpret.prompts import Form, Prompt
from inversionview.core.errors import AnswerError, BudgetError, EndpointError, InversionViewError, SettingError
from inversionview.core.progress import Progress
from inversionview.core.ranges import check_seconds, finite, whole

"""Called with how many requests are done, and of how many."""


Outcome = Form | InversionViewError
"""What became of a request: the answer, or why there is none."""
_OFFICIAL = "https://api.openai.com/v1"


@dataclass
class Usage:
    """What a run took."""

    requests: int = 0
    """Sent; retries after a fault are not counted, repairs are."""
    cached: int = 0
    """Answered from disk."""
    prompt_tokens: int = 0
    answer_tokens: int = 0
    failed: int = 0

    @property
    def tokens(self) -> int:
        """Tokens in all."""
        return self.prompt_tokens + self.answer_tokens


@dataclass(frozen=True)
class Estimate:
    """What a run will take at most, what is in the cache left out."""

    requests: int
    tokens: int
    answer_tokens: int
    cost: float | None
    """In the currency of the prices; ``None`` without prices."""


_MOST_REQUESTS = 256
"""In flight at once."""


class Client:
    """Asks a language model.

    Args:
        model: its name at the endpoint; by default ``OPENAI_MODEL`` of the environment.
        base_url: of the endpoint; by default ``OPENAI_BASE_URL`` of the environment, else OpenAI's.
        concurrency: requests in flight.
        budget: tokens that a run may take; ``None`` is no limit.
        price_in: of a million tokens of prompts.
        price_out: of a million tokens of answers.
        retries: after a fault (429, 5xx, time-out, a broken connection), with growing pauses.
        timeout: seconds that an answer may take.
        longest: tokens of an answer at most, where that is less than its form needs.
        cache: of answers, or its folder; by default in the user's cache.

    Raises:
        SettingError: the ``openai`` package is missing, no model is named, or a setting is out of range.
    """

    def __init__(
        self,
        model: str | None = None,
        *,
        base_url: str | None = None,
        concurrency: int = 8,
        budget: int | None = None,
        price_in: float | None = None,
        price_out: float | None = None,
        retries: int = 5,
        timeout: float = 120.0,
        longest: int | None = None,
        cache: AnswerCache | str | os.PathLike[str] | None = None,
    ) -> None:
        named = model or os.environ.get("OPENAI_MODEL", "")
        if not named:
            raise SettingError("Name the language model with --llm or OPENAI_MODEL, or make statements without one: --no-llm.")
        whole(concurrency, "Concurrency", most=_MOST_REQUESTS)
        check_seconds(timeout, "The time-out")
        whole(retries, "The number of retries", 0)
        if budget is not None:
            whole(budget, "The budget of tokens")
        for price in (price_in, price_out):
            if price is not None:
                finite(price, "A price")
        if (price_in is None) != (price_out is None):
            raise SettingError("What it costs follows from both prices: give the other one, too, or neither.")
        self.model, self.budget, self.prices = named, budget, (price_in, price_out)
        self.base_url = base_url or os.environ.get("OPENAI_BASE_URL") or _OFFICIAL
        self.concurrency, self.retries, self.timeout, self.longest = concurrency, retries, timeout, longest
        self.cache = cache if isinstance(cache, AnswerCache) else AnswerCache(None if cache is None else os.fspath(cache))
        self.usage, self._reserved, self._unknown = Usage(), 0, set[str]()
        self._key = _key(self.base_url)

    def __repr__(self) -> str:
        return f"Client({self.model!r})"

    def estimate(self, prompts: Sequence[Prompt]) -> Estimate:
        """Return what prompts will take at most."""
        left = [prompt for prompt in prompts if self.kept(prompt) is None]
        tokens, answers = sum(prompt.tokens() for prompt in left), sum(prompt.most for prompt in left)
        return Estimate(len(left), tokens, answers, self.cost(tokens - answers, answers))

    def kept(self, prompt: Prompt) -> Form | None:
        """Return the answer that is in the cache; ``None`` where there is none, or the file is damaged."""
        kept = self.cache.read(self.cache.path(prompt, self.model, self.base_url))
        try:
            return None if kept is None else prompt.form.model_validate(kept["answer"])
        except ValidationError:
            return None

    def cost(self, prompt_tokens: int, answer_tokens: int) -> float | None:
        """Return what tokens cost at the given prices; ``None`` where they are not given."""
        if self.prices[0] is None or self.prices[1] is None:
            return None
        return (prompt_tokens * self.prices[0] + answer_tokens * self.prices[1]) / 1e6

    def check_budget(self, estimate: Estimate) -> None:
        """Refuse a run that may take more than the budget.

        Raises:
            BudgetError: it may.
        """
        if self.budget is not None and estimate.tokens > self.budget:
            raise BudgetError(
                f"This may take {estimate.tokens:,} tokens in {estimate.requests:,} requests, more than the budget of "
                f"{self.budget:,}: raise --budget, or ask fewer queries or sites."
            )

    def ask(self, prompts: Sequence[Prompt], report: Progress | None = None) -> list[Outcome]:
        """Return an answer to each prompt, or the error that it came to; what is in the cache is not asked again.

        Every answer is on disk as soon as it arrives.

        Raises:
            EndpointError: the endpoint cannot be reached, does not know the model, or refuses the key.
        """
        return _run(self._ask(prompts, report))

    # -- one run ------------------------------------------------------------------------------------------------------

    async def _ask(self, prompts: Sequence[Prompt], report: Progress | None) -> list[Outcome]:
        from openai import AsyncOpenAI

        gate, done = asyncio.Semaphore(self.concurrency), 0
        async with AsyncOpenAI(
            api_key=self._key, base_url=self.base_url, max_retries=self.retries, timeout=self.timeout
        ) as endpoint:

            async def one(prompt: Prompt) -> Outcome:
                nonlocal done
                async with gate:
                    outcome = await self._one(endpoint, prompt)
                done += 1
                if report is not None:
                    report(done / len(prompts), f"{done} of {len(prompts)}")
                return outcome

            tasks = [asyncio.ensure_future(one(prompt)) for prompt in prompts]
            try:
                return list(await asyncio.gather(*tasks))
            finally:  # after an error that every request would get, or Ctrl-C
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)

    async def _one(self, endpoint: Any, prompt: Prompt) -> Outcome:
        if (kept := self.kept(prompt)) is not None:
            self.usage.cached += 1
            return kept
        try:
            answer, tokens = await self._answer(endpoint, prompt)
        except EndpointError:
            raise
        except (AnswerError, BudgetError) as error:
            self.usage.failed += 1
            return error
        path = self.cache.path(prompt, self.model, self.base_url)
        self.cache.write(path, self.model, answer.model_dump(), tokens)
        return answer

    async def _answer(self, endpoint: Any, prompt: Prompt) -> tuple[Form, int]:
        """Return the answer and its tokens; asks once more where it is not of its form."""
        messages, tokens = prompt.messages(), 0
        for last in (False, True):
            text, took = await self._send(endpoint, prompt, messages)
            tokens += took
            try:
                return prompt.form.model_validate_json(_object(text)), tokens
            except ValidationError as error:
                first = error.errors()[0]
                wrong = f"{'.'.join(map(str, first['loc'])) or 'answer'}: {first['msg']}"
                if last:
                    raise AnswerError(
                        f"{self.model} did not answer in the form that was asked for ({wrong}): try another model."
                    ) from None
            messages = [
                *messages,
                {"role": "assistant", "content": text or "(nothing)"},
                {"role": "user", "content": f"That is not the JSON object that was asked for ({wrong}). Answer with it alone."},
            ]
        raise AssertionError

    async def _send(self, endpoint: Any, prompt: Prompt, messages: list[dict[str, str]]) -> tuple[str, int]:
        """Send one request; return the text of the answer and the tokens it took."""
        import openai

        expected = prompt.tokens()
        if self.budget is not None and self.usage.tokens + self._reserved + expected > self.budget:
            raise BudgetError(f"The budget of {self.budget:,} tokens is spent: raise --budget; what was answered is kept.")
        self._reserved += expected
        try:
            self.usage.requests += 1
            answer = await self._create(endpoint, prompt, messages)
        except openai.APIStatusError as error:
            raise self._wrong(error.status_code) from None
        except openai.APIConnectionError as error:  # time-outs are among these
            slow = isinstance(error, openai.APITimeoutError)
            what = "took too long" if slow else "broke off or could not be reached"
            if not slow and not self.usage.answer_tokens and not self.usage.cached:  # it never worked: nor will all others
                raise EndpointError(f"The endpoint {what}: check OPENAI_BASE_URL and that its server is up.") from None
            raise AnswerError(
                f"The endpoint {what}, after {self.retries} retries: run it again, what is answered stands."
            ) from None
        except (openai.OpenAIError, ValueError) as error:  # a body that is no JSON at all
            raise AnswerError(f"The endpoint's reply could not be read ({type(error).__name__}): run it again.") from None
        finally:
            self._reserved -= expected
        if isinstance(answer, str) or not getattr(answer, "choices", None):
            raise AnswerError("The endpoint's reply is no chat completion: check OPENAI_BASE_URL.")
        choice, used = answer.choices[0], answer.usage
        text = choice.message.content or ""
        asked, said = (used.prompt_tokens, used.completion_tokens) if used else (expected - prompt.most, len(text) // 2)
        self.usage.prompt_tokens += asked
        self.usage.answer_tokens += said
        if choice.message.refusal or choice.finish_reason == "content_filter":
            raise AnswerError(f"{self.model} refused to answer: leave this query out, or try another model.")
        return text, asked + said

    async def _create(self, endpoint: Any, prompt: Prompt, messages: list[dict[str, str]]) -> Any:
        """Ask for an answer in a form; what the endpoint says that it does not know is left out from then on."""
        import openai

        form = {"name": prompt.form.__name__, "schema": prompt.schema(), "strict": True}
        length = min(prompt.most, self.longest or prompt.most)
        options: dict[str, Any] = {
            "max_tokens": length, "temperature": 0.0, "response_format": {"type": "json_schema", "json_schema": form},
        }  # fmt: skip
        while True:
            asked = {name: value for name, value in options.items() if name not in self._unknown}
            if "max_tokens" in self._unknown:
                asked["max_completion_tokens"] = length
            try:
                return await endpoint.chat.completions.create(model=self.model, messages=messages, **asked)
            except openai.BadRequestError as error:
                said = str(error).replace("json_schema", "response_format")
                unknown = {name for name in options if name in asked and name in said}
                if not unknown:
                    raise
                self._unknown |= unknown

    def _wrong(self, status: int) -> InversionViewError:
        """Return the error of a status, without the reply's own text, which may hold the key."""
        if status in (401, 403):
            return EndpointError(f"The endpoint refuses the key (HTTP {status}): set OPENAI_API_KEY to one that it knows.")
        if status == 404:
            return EndpointError(f"The endpoint does not know {self.model!r} (HTTP 404): check --llm and OPENAI_BASE_URL.")
        retried = f" after {self.retries} retries" if status in (408, 409, 429) or status >= 500 else ""
        return AnswerError(f"The endpoint answered HTTP {status}{retried}: run it again, what is answered stands.")


def _key(base_url: str) -> str:
    """Return the key in the environment; endpoints other than OpenAI's may need none."""
    from importlib.util import find_spec

    if find_spec("openai") is None:
        raise SettingError("The openai package is not installed: pip install 'inversionview[llm]', or use --no-llm.")
    key = os.environ.get("OPENAI_API_KEY", "")
    if not key and base_url == _OFFICIAL:
        raise SettingError(
            "There is no key: set OPENAI_API_KEY, or OPENAI_BASE_URL to an endpoint without one, or use --no-llm."
        )
    return key or "none"


def _object(text: str) -> str:
    """Return the JSON object in an answer that has something around it, such as a fence or a sentence."""
    start = text.find("{")
    if start < 0:
        return text
    try:
        _, stop = json.JSONDecoder().raw_decode(text, start)
    except ValueError:
        return text[start:]
    return text[start:stop]


def _run(work: Coroutine[Any, Any, list[Outcome]]) -> list[Outcome]:
    """Run a coroutine to its end, in a thread of its own where this one has a loop already, as in a notebook."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(work)
    box: list[Any] = []

    def inner() -> None:
        try:
            box.append(asyncio.run(work))
        except BaseException as error:
            box.append(error)

    thread = threading.Thread(target=inner)
    thread.start()
    thread.join()
    if isinstance(box[0], BaseException):
        raise box[0]
    return list(box[0])
