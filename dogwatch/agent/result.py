"""The CLI's result event, reduced to what decides a verdict and a bill."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from dogwatch.agent.display import shorten, storable

MAX_TEXT = 2000
_MAX_TOKENS = 10**12
_MAX_DOLLARS = 1e6


@dataclass(frozen=True)
class Spent:
    """Tokens and dollars, as the agent claims them."""

    input_tokens: int = 0
    output_tokens: int = 0
    cache_creation_input_tokens: int = 0
    cache_read_input_tokens: int = 0
    cost_usd: float = 0.0

    def plus(self, other: "Spent") -> "Spent":
        """The sum of two."""
        return Spent(
            self.input_tokens + other.input_tokens,
            self.output_tokens + other.output_tokens,
            self.cache_creation_input_tokens + other.cache_creation_input_tokens,
            self.cache_read_input_tokens + other.cache_read_input_tokens,
            self.cost_usd + other.cost_usd,
        )

    @classmethod
    def of_message(cls, usage: object) -> "Spent":
        """From the `usage` of a message or a result; without a cost."""
        fields = usage if isinstance(usage, dict) else {}
        names = ("input_tokens", "output_tokens", "cache_creation_input_tokens", "cache_read_input_tokens")
        return cls(*(_tokens(fields.get(name)) for name in names))

    @classmethod
    def of_models(cls, usage: Mapping[str, Any]) -> "Spent":
        """From `modelUsage` or `model_usage_since_last_result`: the sum over models."""
        total = cls()
        for fields in usage.values():
            if isinstance(fields, dict):
                total = total.plus(
                    cls(
                        _tokens(fields.get("inputTokens")),
                        _tokens(fields.get("outputTokens")),
                        _tokens(fields.get("cacheCreationInputTokens")),
                        _tokens(fields.get("cacheReadInputTokens")),
                        _dollars(fields.get("costUSD")),
                    )
                )
        return total


@dataclass(frozen=True)
class RunResult:
    """One result event."""

    subtype: str
    is_error: bool
    """Anything but a plain `false` counts as an error."""
    text: str = ""
    """The answer, or the error text of the API."""
    error: str = ""
    """The first of `errors`."""
    stop_reason: str | None = None
    terminal_reason: str | None = None
    api_status: int | None = None
    api_error: str | None = None
    broken_off: bool = False
    """CLI 2.1.197 takes the half of a reply whose stream broke off for the answer: success, no stop reason, no cost."""
    denials: int = 0
    """Tool calls that permissions or hooks refused."""

    @property
    def good(self) -> bool:
        """Whether the CLI itself calls the run a success."""
        return self.subtype == "success" and not self.is_error and not self.broken_off


def read_result(data: Mapping[str, Any], *, turns: int) -> RunResult:
    """Read a result event of a run with that many model turns; every field may be missing or wrong."""
    errors, status, denials = data.get("errors"), data.get("api_error_status"), data.get("permission_denials")
    return RunResult(
        subtype=_text(data.get("subtype"), 64) or "",
        is_error=data.get("is_error") is not False,
        text=_text(data.get("result"), MAX_TEXT) or "",
        error=(_text(errors[0], 500) if isinstance(errors, list) and errors else None) or "",
        stop_reason=_text(data.get("stop_reason"), 64),
        terminal_reason=_text(data.get("terminal_reason"), 64),
        api_status=status if isinstance(status, int) and 100 <= status <= 599 else None,
        api_error=_text(data.get("api_error_type"), 64) or _text(data.get("api_error"), 64),
        broken_off="stop_reason" in data and data["stop_reason"] is None and turns > 0 and data.get("total_cost_usd") == 0,
        denials=len(denials) if isinstance(denials, list) else 0,
    )


def read_spent(data: Mapping[str, Any]) -> tuple[Spent, bool]:
    """What a result event reports, and whether that is the part since the result before it rather than the whole run.

    `total_cost_usd` and `modelUsage` of CLI 2.1.329 go on counting over a resumed conversation; its `model_usage_since_last_result` is this
    run's part. 2.1.197 lacks that field and reports per run. `usage` is all zero when the budget ended the run, so it comes last.
    """
    since = data.get("model_usage_since_last_result")
    if isinstance(since, dict):
        return Spent.of_models(since), True
    models = data.get("modelUsage")
    spent = Spent.of_models(models) if isinstance(models, dict) and models else Spent.of_message(data.get("usage"))
    fields = {**vars(spent), "cost_usd": _dollars(data.get("total_cost_usd")) or spent.cost_usd}
    return Spent(**fields), False


def _text(value: object, limit: int) -> str | None:
    return shorten(storable(value), limit) if isinstance(value, str) else None


def _tokens(value: object) -> int:
    return min(value, _MAX_TOKENS) if isinstance(value, int) and value > 0 else 0


def _dollars(value: object) -> float:
    if isinstance(value, int | float) and not isinstance(value, bool) and value > 0 and math.isfinite(value):
        return float(min(value, _MAX_DOLLARS))
    return 0.0
