"""A typed client of ZenGlow.

with ZenGlow("https://zenglow.example", api_key="zg_…") as zenglow:
    for found in zenglow.search("how warm should green tea be?").results:
        print(found.title, found.text)
"""

from zenglow_client.client import DocumentText, Turn, ZenGlow
from zenglow_client.errors import (
    ApiError,
    BadRequestError,
    ConfigurationError,
    ForbiddenError,
    NotAuthenticatedError,
    NotFoundError,
    RateLimitedError,
    ServerAwayError,
    ServerError,
    UnexpectedAnswerError,
    ZenGlowError,
)
from zenglow_client.transport import Patience

__all__ = [
    "ApiError",
    "BadRequestError",
    "ConfigurationError",
    "DocumentText",
    "ForbiddenError",
    "NotAuthenticatedError",
    "NotFoundError",
    "Patience",
    "RateLimitedError",
    "ServerAwayError",
    "ServerError",
    "Turn",
    "UnexpectedAnswerError",
    "ZenGlow",
    "ZenGlowError",
]
