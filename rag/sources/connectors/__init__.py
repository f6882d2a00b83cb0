"""The kinds of place, each a module that looks like its neighbours."""

from __future__ import annotations

from rag.sources.connectors.folder import FolderConnector
from rag.sources.connectors.git import GitConnector
from rag.sources.connectors.s3 import S3Connector
from rag.sources.connectors.web import WebConnector
from rag.sources.types import Connector

CONNECTORS: dict[str, Connector] = {
    connector.kind: connector for connector in (FolderConnector(), WebConnector(), GitConnector(), S3Connector())
}
