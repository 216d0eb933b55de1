"""The stock side's ClientApp: an ordinary Flower app with Residency's training stack imported, and no training."""

from __future__ import annotations

import numpy as np
import opacus
import torch
import transformers
from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

IMPORTED = (opacus, torch, transformers)

app = ClientApp()


@app.train()
def train(message: Message, context: Context) -> Message:
    """Answer with random numbers of the model's size, other ones for each message."""
    del context
    (model,) = message.content["arrays"].to_numpy_ndarrays()  # type: ignore[union-attr]
    update = np.random.default_rng().random(model.size, dtype=np.float32)
    content = RecordDict({"arrays": ArrayRecord([update]), "metrics": MetricRecord({"num-examples": 1})})
    return Message(content, reply_to=message)
