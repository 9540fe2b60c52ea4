"""The options of ``runner=batch``."""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.errors import ConfigError
from pipeline.recorded.signing import read_private_key
from pipeline.sharding import parse_shard
from pipeline.validation import check, check_choice, check_flag, check_number
from runners import budget


@dataclass
class BatchOptions:
    """The options of a batch, checked.

    Attributes:
        on_error: ``skip`` continues after a failed input; ``raise`` stops at the first.
        max_failures: Stop when more inputs than this have failed: a number, or a share of all
            inputs such as ``5%``; ``None``: no limit.
        on_change: What to do if the output holds results of other settings or of another input:
            ``error``; ``restart`` removes them and starts from scratch; ``extend`` keeps those of
            another input and adds to them.
        on_lock: What to do if another run has locked the output: ``error`` (exit status 11), or
            ``skip`` (exits 0 silently).
        retry_failed: Process only the inputs that failed before, including those that killed their
            worker process.
        prune: Whether to remove the results of inputs that are no longer listed. Refused if an
            input lists nothing, because a disk may not be mounted; ``all`` removes them even then.
        shard: ``k/n``: process only shard k of n, into ``<output>/shards/k-of-n``; ``None``: all
            inputs. See ``runner=merge``.
        sign: A PEM file with an Ed25519 private key, which signs ``run.json`` and
            ``manifest.sha256``.
        checkpoint_s: Seconds between checkpoints of an output in an object store, which is what
            another machine has to repeat at most. Longer if they take more than 5 % of the time.
    """

    on_error: str = "skip"
    max_failures: int | float | str | None = None
    on_change: str = "error"
    on_lock: str = "error"
    retry_failed: bool = False
    prune: bool | str = False
    shard: str | None = None
    sign: str | None = None
    checkpoint_s: float = 60.0

    def __post_init__(self) -> None:
        check_choice("on_error", self.on_error, ("skip", "raise"))
        check_choice("on_change", self.on_change, ("error", "restart", "extend"))
        check_choice("on_lock", self.on_lock, ("error", "skip"))
        check_flag("retry_failed", self.retry_failed)
        is_known = isinstance(self.prune, bool) or self.prune == "all"
        check("prune", self.prune, is_known, "true, false or all")
        budget.allowed(self.max_failures, 0)
        check_number("checkpoint_s", self.checkpoint_s, 0, 86400)
        self.own_shard = None if self.shard is None else parse_shard(self.shard)
        if self.own_shard is not None and self.on_change == "extend":
            raise ConfigError(
                "on_change: extend does not apply to a shard; list all inputs as input=[...]"
            )
        self.key = None if self.sign is None else read_private_key(self.sign, "sign")
