"""For a worker process of a test: the test's own database, and batches small enough to be interrupted."""

import os

from tests.settings import *  # noqa: F403
from tests.settings import DATABASES

DATABASES["default"]["NAME"] = os.environ["ZENGLOW_TEST_DATABASE"]
RAG_INDEX_BATCH_DOCUMENTS = 8
