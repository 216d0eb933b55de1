"""The stock side's ServerApp: Flower's FedAvg, one round of `Strategy.start` whenever the bench lets it through."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from flwr.app import ArrayRecord, Context, Message, MetricRecord
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg

from bench.round_gate import wait_at_gate

WHO = "stock"
SITES = 2
app = ServerApp()


class CountingFedAvg(FedAvg):
    """FedAvg that remembers how many sites answered."""

    answered = 0

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """As in FedAvg."""
        held = list(replies)
        self.answered = sum(not reply.has_error() for reply in held)
        return super().aggregate_train(server_round, held)


@app.main()
def main(grid: Grid, context: Context) -> None:
    """A round per command; the global model goes on from round to round while its size stays."""
    del context
    strategy = CountingFedAvg(fraction_evaluate=0.0, min_train_nodes=SITES, min_available_nodes=SITES)
    model = np.zeros(0, dtype=np.float32)
    while (told := wait_at_gate(WHO, answered=strategy.answered)) is not None:
        if model.size != told["size"]:
            model = np.random.default_rng().random(told["size"], dtype=np.float32)
        strategy.answered = 0
        result = strategy.start(grid=grid, initial_arrays=ArrayRecord([model]), num_rounds=1)
        (model,) = result.arrays.to_numpy_ndarrays()
