"""What eSpeak NG offers: British voices, by our names and its own."""

from __future__ import annotations

VOICES = {
    "en-gb": "gmw/en",
    "en-gb-rp": "gmw/en-GB-x-rp",
    "en-gb-scotland": "gmw/en-GB-scotland",
    "en-gb-woman": "gmw/en+f3",
}
SAMPLE_RATE_HZ = 22_050
MODULE = "voice.engines.espeak_child"
