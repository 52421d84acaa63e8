"""The base model: tokenizer, loading, attention, adapter, saving."""

import logging

# At import bitsandbytes reports optional CPU kernels it did not find; nothing here needs them.
logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
