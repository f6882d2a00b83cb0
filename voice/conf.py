"""Environment variables of the voice agent."""

from collections.abc import Iterator
from itertools import pairwise

from ops.contracts.env import Environment, Fault, Kind, Variable, declare, declare_rule, unencrypted

declare(
    Variable(
        "VOICE_STT_PROCESSES",
        Kind.INTEGER,
        "Processes that listen, in each web process. Of PocketSphinx: people who can speak at once; 0: one for "
        "each core, at least two, of about 100 MB. Of Whisper: copies of the model, which share the cores; 0: one.",
        default=0,
        minimum=0,
        maximum=256,
    ),
    Variable(
        "VOICE_TTS_PROCESSES",
        Kind.INTEGER,
        "Processes that speak. One serves dozens of people.",
        default=1,
        minimum=1,
        maximum=64,
    ),
    Variable(
        "VOICE_MAX_SESSIONS",
        Kind.INTEGER,
        "Voice sessions at once; more are refused and told when to try again. 0: two for each core. Of several web "
        "processes the first has them all.",
        default=0,
        minimum=0,
        maximum=10_000,
    ),
    Variable(
        "VOICE_RESUME_S",
        Kind.FLOAT,
        "How long a session waits for a lost connection to come back, in seconds.",
        default=30,
        minimum=0,
        maximum=600,
    ),
    Variable(
        "VOICE_SESSION_MAX_MINUTES",
        Kind.FLOAT,
        "Longest voice session, in minutes.",
        default=120,
        minimum=1,
        maximum=1440,
    ),
    Variable(
        "VOICE_TURN_MAX_S",
        Kind.FLOAT,
        "Longest speech of one turn, in seconds; then it is answered as if it were over.",
        default=60,
        minimum=5,
        maximum=300,
    ),
    Variable(
        "VOICE_UPLOAD_MAX_BYTES",
        Kind.INTEGER,
        "Largest sound file that /leonardo/listen and /leonardo/analyze take, in bytes.",
        default=10 * 1024 * 1024,
        minimum=1024,
        maximum=1024 * 1024 * 1024,
    ),
    Variable(
        "VOICE_UPLOAD_MAX_S",
        Kind.FLOAT,
        "Longest sound of such a file, in seconds.",
        default=120,
        minimum=1,
        maximum=280,
    ),
    Variable(
        "VOICE_ENDPOINT_FINISHED_MS",
        Kind.INTEGER,
        "Silence after which a turn is over when what was said sounds finished, in milliseconds.",
        default=250,
        minimum=100,
        maximum=5000,
    ),
    Variable(
        "VOICE_ENDPOINT_UNSURE_MS",
        Kind.INTEGER,
        "The same when it may be finished or not, in milliseconds.",
        default=450,
        minimum=100,
        maximum=5000,
    ),
    Variable(
        "VOICE_ENDPOINT_OPEN_MS",
        Kind.INTEGER,
        "The same when more is to come, as after 'and', in milliseconds.",
        default=1000,
        minimum=100,
        maximum=10_000,
    ),
    Variable(
        "VOICE_ECHO_MARGIN_DB",
        Kind.FLOAT,
        "How far below what is being played the microphone may be, in decibels, and still count as somebody who speaks "
        "over it. Lower it where people are quiet and wear headphones.",
        default=18,
        minimum=0,
        maximum=80,
    ),
    Variable(
        "VOICE_KEEP_TRANSCRIPTS",
        Kind.BOOLEAN,
        "Keep spoken conversations like typed ones, unless whoever talks turns it off. Sound is never kept.",
        default=True,
    ),
    Variable(
        "VOICE_VOCABULARY",
        Kind.BOOLEAN,
        "Mix a collection's own words into what the ears expect. Questions about it are heard better, all else worse.",
        default=True,
    ),
    Variable(
        "VOICE_VOCABULARY_WORDS",
        Kind.INTEGER,
        "Words of general English that stay beside the collection's own. Fewer are heard faster.",
        default=10_000,
        minimum=500,
        maximum=72_547,
    ),
    Variable(
        "VOICE_VOCABULARY_WEIGHT",
        Kind.FLOAT,
        "Share of the collection's own words in the mixture, from 0 to 1.",
        default=0.5,
        minimum=0,
        maximum=1,
    ),
    Variable(
        "VOICE_VOICE",
        Kind.STRING,
        "Voice that speaks unless a caller or an agent chooses another: en-gb, en-gb-rp, en-gb-scotland, en-gb-woman.",
        default="en-gb-rp",
    ),
    Variable(
        "VOICE_WAKE_PHRASE",
        Kind.STRING,
        "What wakes the agent where a client asks for a wake word: English words with three syllables or more.",
        default="leonardo",
    ),
    Variable(
        "VOICE_MODELS_URL",
        Kind.URL,
        "Where `manage.py voices fetch` fetches models from: Hugging Face, or a mirror with the same addresses.",
        default="https://huggingface.co",
        risk=unencrypted("VOICE_MODELS_URL"),
    ),
    Variable(
        "VOICE_STYLE",
        Kind.STRING,
        "Manner in which it speaks unless a caller chooses another.",
        default="explaining",
        choices=("analytical", "teaching", "explaining", "encouraging"),
    ),
)


@declare_rule
def _of_endpointing(loaded: Environment) -> Iterator[Fault]:
    order = ("VOICE_ENDPOINT_FINISHED_MS", "VOICE_ENDPOINT_UNSURE_MS", "VOICE_ENDPOINT_OPEN_MS")
    for shorter, longer in pairwise(order):
        if loaded[shorter] > loaded[longer]:
            message = f"{shorter} ({loaded[shorter]}) is more than {longer} ({loaded[longer]})."
            yield Fault("contradictory", shorter, message)
