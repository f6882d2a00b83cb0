"""A spoken conversation: sound in, sound out, and the turn manager between them.

Everything that changes a session happens in its one task, in `VoiceSession.run`. Engines, the answer and the socket
only leave messages for it: control on one lane, sound on another, and control overtakes sound. The lanes are bounded.
"""

from __future__ import annotations

import asyncio
import logging
import math
import secrets
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import aclosing, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from django.conf import settings

from ops.api.problems import as_problem
from ops.contracts.principal import Principal
from ops.contracts.problems import Problem
from ops.contracts.stage import begun_stage, stage_ended
from ops.identifiers import uuid7
from ops.sockets.threads import in_thread
from rag.answers import contracts
from rag.answers.contracts import (
    Answer,
    AnswerRequest,
    CitationEvent,
    DoneEvent,
    ErrorEvent,
    RetrievalEvent,
    TokenEvent,
)
from rag.answers.service import Draft, Prepared, conclude_stopped, prepare, stream_prepared
from voice import metrics, opus, transcripts
from voice.engines.contracts import (
    BYTES_PER_MS,
    EngineError,
    Recognition,
    SpeechToText,
    Style,
    TextToSpeech,
    Transcript,
    Utterance,
    VoiceActivityDetector,
)
from voice.engines.wake import WakeWordSpotter, Watch
from voice.gate import Marked, SpeechGate, Transition
from voice.opus import DamagedPacketError, OpusDecoder, OpusEncoder
from voice.playback import MOST_AHEAD_MS, Playback
from voice.protocol import INPUT_RATE_HZ, VERSIONS, Format, sound_frame
from voice.sentences import Sentences
from voice.spoken_text import spoken
from voice.turns.endpointing import Completeness, Waits, completeness
from voice.turns.interruptions import Judge
from voice.turns.manager import (
    AnswerFailed,
    AnswerSounds,
    Asked,
    BeginTurn,
    CancelTurn,
    Committed,
    DropHeld,
    Duck,
    Effect,
    Event,
    ForgetSpeech,
    Heard,
    OfferResume,
    PlaybackEnded,
    ResumeSpeaking,
    SpeechEnded,
    SpeechStarted,
    State,
    StopSpeaking,
    Tick,
    Times,
    TurnManager,
    Unduck,
)

logger = logging.getLogger(__name__)

OFFER = "Shall I go on from where I was?"
POLL_S = 0.03
"""How often playback is looked at while something sounds."""
IDLE_S = 5.0
BACKLOG_MS = 4000
"""Sound that may wait to be listened to; of more the oldest is dropped."""
MOST_PIECES = 200
"""The same in pieces: an Opus packet of a few bytes may hold 120 ms."""
MOST_CONTROL = 2048
OUT_FRAME_MS = 100
AWAKE_MS = 10_000
"""How long after the wake word, or after an answer, none is needed."""
VOCABULARY_EVERY_MS = 2000
"""How often it is looked whether another vocabulary was made."""
LONGEST_DOZE_MS = 30_000
"""Of speech without a pause in which the wake word is looked for at once; then it is forgotten."""
SHORTEST_REST_MS = 400
"""Of sound after the wake word for it to be a question."""
CLIPPED = 0.01
"""The share of samples at the end of the scale above which somebody is told, once."""
DROPPED = {
    "order": "Sound came out of order.",
    "backlog": "Sound came faster than it can be heard.",
    "damaged": "Some of the sound is no Opus.",
}
"""What is told of frames that were not heard, by reason."""
REMEMBERED_TURNS = 8
SPOKEN_LONGEST = 900


class _Searches:
    """How many of this process's sessions are being looked up for."""

    def __init__(self) -> None:
        self.running = 0
        self._lock = threading.Lock()

    def __enter__(self) -> None:
        with self._lock:
            self.running += 1

    def __exit__(self, *exception: object) -> None:
        with self._lock:
            self.running -= 1


_searches = _Searches()
_threads = ThreadPoolExecutor(max_workers=2, thread_name_prefix="vad")


class Outlet(Protocol):
    """Where messages go: the socket."""

    async def send_json(self, content: object) -> None: ...

    async def send_bytes(self, data: bytes) -> None: ...


@dataclass(slots=True)
class Options:
    """What a client may choose, and change in the middle."""

    collection: str
    agent: str | None = None
    voice: str = ""
    style: Style = Style.EXPLAINING
    hands_free: bool = True
    acknowledges: bool = False
    wake_word: bool = False
    keep_transcript: bool = True
    input_format: Format = "pcm16"
    output_format: Format = "pcm16"


@dataclass(frozen=True, slots=True)
class Parts:
    """What a session is made of: engines, with their labels, and the judge of interruptions."""

    hear: SpeechToText
    speak: TextToSpeech
    detector: VoiceActivityDetector
    judge: Judge
    vocabulary: Callable[[], Path | None] = lambda: None
    """What to listen with, asked again and again: one may be made while they talk."""
    wake: WakeWordSpotter | None = None
    labels: dict[str, str] = field(default_factory=dict)


@dataclass(eq=False, slots=True)
class Stretch:
    """Speech without a pause. A turn consists of one or several."""

    recognition: Recognition | None
    """Until it is final: it holds the sound."""
    vad: begun_stage
    """Its span is as long as the speech."""
    text: str = ""
    confidence: float = 0.0
    is_open: bool = True
    is_final: bool = False


@dataclass(eq=False, slots=True)
class Doze:
    """Speech in which only the wake word is listened for."""

    watch: Watch
    sound: bytearray = field(default_factory=bytearray)
    silent_since_ms: float | None = None
    """Once it has paused."""


@dataclass(eq=False, slots=True)
class Line:
    """A sentence of an answer, to be spoken. ``samples``: of its sound, as far as it was made."""

    turn: Turn
    index: int
    text: str
    samples: int = 0
    is_made: bool = False


@dataclass(eq=False, slots=True)
class Turn:
    """A question with its answer. Times are the session's clock."""

    number: int
    text: str
    request_id: str
    asked_at_ms: float
    silent_since_ms: float
    is_typed: bool = False
    transcript_at_ms: float | None = None
    retrieval_at_ms: float | None = None
    first_token_at_ms: float | None = None
    speculative: bool = False
    task: asyncio.Task[None] | None = None
    prepared: Prepared | None = None
    draft: Draft = field(default_factory=Draft)
    answer: Answer | None = None
    failure: str = ""
    voice: str = ""
    """The agent's own."""
    continues: Turn | None = None
    """The interrupted one whose rest this is."""
    kept: transcripts.Kept | None = None
    sentences: Sentences = field(default_factory=Sentences)
    lines: list[Line] = field(default_factory=list)
    is_written: bool = False
    has_sounded: bool = False
    has_failed: bool = False
    is_ended: bool = False
    heard: list[str] = field(default_factory=list)
    is_cut: bool = False
    """Whether the last sentence of ``heard`` was not heard to its end."""
    tts_ms: float = 0.0
    speaking_since_ms: float = 0.0


class VoiceSession:
    """One conversation of one person. It outlives its socket for ``VOICE_RESUME_S``."""

    def __init__(self, principal: Principal, options: Options, parts: Parts, charge: Callable[[], Any]) -> None:
        self.id = str(uuid7())
        self.token = secrets.token_urlsafe(24)
        self.principal = principal
        self.options = options
        self.parts = parts
        self.attached_to: Outlet | None = None
        """The socket that there is, at once; `outlet` follows when the session's task comes to it."""
        self.outlet: Outlet | None = None
        self._alone_since_ms: float | None = None
        """Since when there has been no socket. For ``VOICE_RESUME_S`` one may come."""
        self.is_over = False
        self.on_over: Callable[[], None] | None = None
        """Called when it has ended, for the socket to close."""
        self.frames_dropped = 0
        self._charge = charge
        self._loop = asyncio.get_running_loop()
        self._control: deque[tuple[Callable[..., Any], tuple[Any, ...]]] = deque()
        self._sound: deque[bytes] = deque()
        self._sound_bytes = 0
        self._wake = asyncio.Event()
        self._began_ms = self._last_input_ms = self.now_ms()
        self._last_sequence = -1
        self._seq = self._frame_number = self._turn_count = 0
        self._decode = OpusDecoder() if options.input_format == "opus" else None
        self._encode = OpusEncoder(parts.speak.sample_rate_hz) if options.output_format == "opus" else None
        self._gate = SpeechGate(parts.detector, settings.VOICE_ECHO_MARGIN_DB)
        self._manager = TurnManager(
            waits=Waits(
                settings.VOICE_ENDPOINT_FINISHED_MS, settings.VOICE_ENDPOINT_UNSURE_MS, settings.VOICE_ENDPOINT_OPEN_MS
            ),
            times=Times(turn_ms=settings.VOICE_TURN_MAX_S * 1000),
            judge=parts.judge,
            hands_free=options.hands_free,
        )
        rate_hz = parts.speak.sample_rate_hz if self._encode is None else opus.RATE_HZ
        self._playback = Playback(rate_hz, options.acknowledges)
        self._stretches: list[Stretch] = []
        self._doze: Doze | None = None
        self._awake_until_ms: float | None = None
        """Until when no wake word is needed."""
        self._speaker = ""
        self._vocabulary = parts.vocabulary()
        self._next_vocabulary_ms = self._began_ms + VOCABULARY_EVERY_MS
        self._said = ""
        self._silent_since_ms = 0.0
        self._turn: Turn | None = None
        self._queue: deque[Line] = deque()
        self._making: tuple[Line, Utterance] | None = None
        self._made: deque[tuple[Line, bytes, bool]] = deque()
        self._held: tuple[Turn, list[Line]] | None = None
        self._paused: list[Line] = []
        self._history: deque[contracts.Turn] = deque(maxlen=2 * REMEMBERED_TURNS)
        self._guess: tuple[str, asyncio.Task[Prepared]] | None = None
        self._told_drop_ms = -1e9
        self._told_clipped = self._is_ducked = False
        self._conversation: str | None = None
        self._keeping: asyncio.Task[None] | None = None

    def now_ms(self) -> float:
        return time.monotonic() * 1000

    @property
    def state(self) -> State:
        return self._manager.state

    # --- for the socket: each returns at once ----

    def attach(self, outlet: Outlet, *, is_resumed: bool) -> None:
        self.attached_to, self._alone_since_ms = outlet, None
        self._post(self._attached, outlet, is_resumed)

    def detach(self, outlet: Outlet) -> None:
        if self.attached_to is outlet:
            self.attached_to, self._alone_since_ms = None, self.now_ms()
        self._post(self._detached, outlet)

    def take_sound(self, sequence: int, sound: bytes) -> None:
        """Sound from the microphone. What is older than the last is dropped, and the oldest when too much waits."""
        if sequence <= self._last_sequence:
            self._drop("order", 1)
            return
        self._last_sequence = sequence
        self._sound.append(sound)
        self._sound_bytes += len(sound)
        while self._sound_bytes > BACKLOG_MS * BYTES_PER_MS or len(self._sound) > MOST_PIECES:
            self._sound_bytes -= len(self._sound.popleft())
            self._drop("backlog", 1)
        self._wake.set()

    def acknowledge(self, position: int) -> None:
        self._playback.acknowledge(position, self.now_ms())
        self._wake.set()

    def tell(self, event: Event) -> None:
        self._post(self._happened, event)

    def update(self, options: dict[str, Any]) -> None:
        self._post(self._updated, options)

    def end(self) -> None:
        """Over: its task ends, and with it everything that it holds."""
        self.is_over = True
        self._wake.set()

    # --- its one task ----

    async def run(self) -> None:
        longest_ms = settings.VOICE_SESSION_MAX_MINUTES * 60_000
        self.parts.hear.prepare(self._vocabulary)
        try:
            while not self.is_over:
                await self._wait()
                while self._control and not self.is_over:
                    work, arguments = self._control.popleft()
                    result = work(*arguments)
                    if result is not None:
                        await result
                if self._sound:
                    await self._listen()
                await self._pump()
                await self._look_at_clock()
                if self._left_alone_s <= 0:
                    self.is_over = True
                if self.now_ms() - self._began_ms > longest_ms:
                    await self._error("session-too-long", "Begin a new session.", fatal=True)
                    self.is_over = True
        finally:
            await self._close()

    async def _wait(self) -> None:
        if self._control or self._sound:
            # Others of this loop have their turn, too.
            await asyncio.sleep(0)
            return
        timeout_s = min(POLL_S if self._is_sounding else IDLE_S, max(self._left_alone_s, 0))
        deadline_ms = self._manager.situation.deadline_ms
        if deadline_ms is not None:
            left_s = (deadline_ms - self.now_ms()) / 1000
            # What is overdue waits for a transcript, and is looked at now and then.
            timeout_s = min(timeout_s, left_s if left_s > 0 else POLL_S)
        if self._awake_until_ms is not None:
            timeout_s = min(timeout_s, max((self._awake_until_ms - self.now_ms()) / 1000, POLL_S))
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self._wake.wait()
        self._wake.clear()

    @property
    def _left_alone_s(self) -> float:
        """How long it still waits for a socket."""
        if self._alone_since_ms is None:
            return math.inf
        waits_s: float = settings.VOICE_RESUME_S
        return waits_s - (self.now_ms() - self._alone_since_ms) / 1000

    @property
    def _is_sounding(self) -> bool:
        speaks = bool(self._made) or self.state in {State.SPEAKING, State.INTERRUPTED, State.RESUMING}
        return speaks and self.outlet is not None

    def _post(self, work: Callable[..., Any], *arguments: Any) -> None:
        """Have ``work`` done by the session's task, unless that is over. From its event loop only."""
        if self.is_over:
            return
        if len(self._control) >= MOST_CONTROL:
            logger.warning("A voice session is told too much at once; it is ended")
            self.is_over = True
        else:
            self._control.append((work, arguments))
        self._wake.set()

    def _post_from_thread(self, work: Callable[..., Any], *arguments: Any) -> None:
        with suppress(RuntimeError):  # the loop is gone, and so is the session
            self._loop.call_soon_threadsafe(self._post, work, *arguments)

    def _drop(self, reason: str, count: int) -> None:
        self.frames_dropped += count
        metrics.DROPPED.labels(reason).inc(count)
        now_ms = self.now_ms()
        if now_ms - self._told_drop_ms > 2000:
            self._told_drop_ms = now_ms
            self._post(self._error, "audio-dropped", DROPPED[reason])

    # --- the socket comes and goes ----

    async def _attached(self, outlet: Outlet, is_resumed: bool) -> None:
        self.outlet = outlet
        self._last_sequence = -1
        await self._send(
            "session.started",
            version=VERSIONS[-1],
            session=self.id,
            token=self.token,
            resumed=is_resumed,
            resume_s=settings.VOICE_RESUME_S,
            input_rate=INPUT_RATE_HZ,
            output_rate=self._playback.rate_hz,
            input_format=self.options.input_format,
            output_format=self.options.output_format,
            collection=self.options.collection,
            voices=list(self.parts.speak.voices()),
            engines=self.parts.labels,
            position=self._playback.sent,
        )
        await self._send("turn.state", state=self.state.value)
        if self._conversation is not None:
            await self._send("transcript.kept", conversation=self._conversation)
        if self._paused:
            lines, self._paused = self._paused, []
            await self._send("resumed", sentence=lines[0].index)
            self._queue.extendleft(reversed(lines))

    async def _detached(self, outlet: Outlet) -> None:
        if self.outlet is not outlet:
            return
        self.outlet = None
        self._sound.clear()
        self._sound_bytes = 0
        if self._gate.is_open:
            self._end_stretch()
            await self._happened(SpeechEnded(self.now_ms()))
        self._gate.reset()
        self._is_ducked = False
        if self._doze is not None:
            self._doze.watch.cancel()
            self._doze = None
        self._paused = self._silence()

    async def _updated(self, options: dict[str, Any]) -> None:
        for name, value in options.items():
            setattr(self.options, name, Style(value) if name == "style" else value)
        self._manager.hands_free = self.options.hands_free

    async def _send(self, name: str, **fields: Any) -> None:
        self._seq += 1
        outlet = self.outlet
        if outlet is not None:
            await outlet.send_json({"type": name, "seq": self._seq} | fields)

    async def _error(self, code: str, detail: str, *, fatal: bool = False) -> None:
        await self._send("error", code=code, detail=detail, fatal=fatal)

    # --- hearing ----

    async def _listen(self) -> None:
        pieces = list(self._sound)
        self._sound.clear()
        self._sound_bytes = 0
        now_ms = self.now_ms()
        over_voice = self.state in {State.SPEAKING, State.INTERRUPTED, State.RESUMING}
        playing_db = self._playback.level_db(now_ms) if over_voice else None
        marked = await self._loop.run_in_executor(_threads, self._gated, pieces, playing_db)
        for mark in marked:
            if self._doze is not None or (mark.transition is Transition.STARTED and self._is_asleep):
                await self._doze_on(mark)
                continue
            if mark.transition is Transition.STARTED:
                await self._begin_stretch()
                await self._send("vad.started", over_voice=playing_db is not None)
                await self._happened(SpeechStarted())
            if mark.transition is Transition.SUSPECTED and self.state is State.SPEAKING:
                await self._duck(True)
            if mark.transition is Transition.DISMISSED and self.state is not State.INTERRUPTED:
                await self._duck(False)
            if mark.sound:
                await self._feed(mark.sound)
            if mark.transition is Transition.PAUSED:
                self._silent_since_ms = self.now_ms() - mark.silent_ms
                self._end_stretch()
                await self._send("vad.ended", silent_ms=mark.silent_ms)
                await self._happened(SpeechEnded(self._silent_since_ms))
                self._look_ahead()
                if mark.clipped > CLIPPED and not self._told_clipped:
                    self._told_clipped = True
                    await self._error("audio-clipped", "The microphone is too loud to be understood. Turn it down.")

    def _gated(self, pieces: list[bytes], playing_db: float | None) -> list[Marked]:
        started = time.perf_counter()
        marked = self._gate.take(b"".join(map(self._decoded, pieces)), playing_db)
        # A span for each of these would tell less than it costs: there is one for each stretch of speech.
        stage_ended("vad", started)
        return marked

    # --- the wake word ----

    @property
    def _is_asleep(self) -> bool:
        """Whether what is said is for somebody else, unless it begins with the wake word."""
        options = self.options
        return (
            options.wake_word
            and options.hands_free
            and self.parts.wake is not None
            and self._awake_until_ms is None
            and self.state is State.LISTENING
            and not self._stretches
        )

    async def _doze_on(self, mark: Marked) -> None:
        doze = self._doze
        is_new = doze is None or (mark.transition is Transition.STARTED and doze.silent_since_ms is not None)
        if is_new or (doze is not None and len(doze.sound) > LONGEST_DOZE_MS * BYTES_PER_MS):
            await self._fall_asleep()
        doze = self._doze
        if doze is None:
            return
        doze.sound += mark.sound
        try:
            if mark.sound and doze.silent_since_ms is None:
                doze.watch.feed(mark.sound)
        except EngineError as error:
            await self._wake_failed(str(error))
            return
        if mark.transition is Transition.PAUSED:
            doze.silent_since_ms = self.now_ms() - mark.silent_ms
            doze.watch.finish().add_done_callback(lambda done: self._post_from_thread(self._slept, doze, done))

    async def _fall_asleep(self) -> None:
        """A new stretch of speech, in which the wake word may be."""
        spotter = self.parts.wake
        if self._doze is not None:
            self._doze.watch.cancel()
            self._doze = None
        holder: list[Doze] = []

        def on_wake(at_ms: int) -> None:
            self._post_from_thread(self._woken, holder, at_ms)

        if spotter is not None:
            try:
                holder.append(Doze(spotter.watch(settings.VOICE_WAKE_PHRASE, on_wake)))
            except EngineError as error:
                await self._wake_failed(str(error))
            else:
                self._doze = holder[0]

    async def _woken(self, holder: list[Doze], at_ms: int) -> None:
        """The wake word was said: what follows it is for the agent."""
        if not holder or holder[0] is not self._doze:
            return
        doze, self._doze = holder[0], None
        await self._stay_awake()
        rest = bytes(doze.sound[at_ms * BYTES_PER_MS :])
        if doze.silent_since_ms is not None and len(rest) < SHORTEST_REST_MS * BYTES_PER_MS:
            return  # nothing but the wake word: the question is still to come
        if doze.silent_since_ms is None:
            doze.watch.cancel()
        await self._begin_stretch()
        await self._send("vad.started", over_voice=False)
        await self._happened(SpeechStarted())
        await self._feed(rest)
        if doze.silent_since_ms is not None:
            self._silent_since_ms = doze.silent_since_ms
            self._end_stretch()
            await self._send("vad.ended", silent_ms=round(self.now_ms() - doze.silent_since_ms))
            await self._happened(SpeechEnded(doze.silent_since_ms))

    async def _slept(self, doze: Doze, future: Future[bool]) -> None:
        if doze is not self._doze:
            return
        self._doze = None
        if not future.cancelled() and (error := future.exception()) is not None:
            await self._wake_failed(str(error))

    async def _wake_failed(self, detail: str) -> None:
        """Better awake than deaf."""
        self._doze, self.options.wake_word = None, False
        await self._error("wake-failed", f"Nobody listens for the wake word, so everything is heard: {detail}")

    async def _stay_awake(self) -> None:
        if self.options.wake_word:
            was_asleep = self._awake_until_ms is None
            self._awake_until_ms = self.now_ms() + AWAKE_MS
            if was_asleep:
                await self._send("wake", awake=True)

    async def _doze_off(self) -> None:
        """Nobody has said anything for long enough."""
        if self._awake_until_ms is None or self.now_ms() < self._awake_until_ms:
            return
        if self.state is State.LISTENING and not self._stretches:
            self._awake_until_ms = None
            await self._send("wake", awake=False)
        else:
            self._awake_until_ms = self.now_ms() + AWAKE_MS

    def _decoded(self, sound: bytes) -> bytes:
        if self._decode is None:
            return sound
        try:
            return self._decode(sound)
        except DamagedPacketError:
            self._post_from_thread(self._drop, "damaged", 1)
            return b""

    async def _begin_stretch(self) -> None:
        holder: list[Stretch] = []

        def on_partial(transcript: Transcript) -> None:
            self._post_from_thread(self._heard, holder, transcript)

        try:
            recognition = self.parts.hear.start(on_partial, self._vocabulary, speaker=self._speaker)
        except EngineError as error:
            await self._error("stt-failed", str(error))
            return
        holder.append(Stretch(recognition, begun_stage("vad")))
        self._stretches.append(holder[0])

    async def _feed(self, pcm: bytes) -> None:
        stretch = self._open_stretch
        if stretch is not None and stretch.recognition is not None:
            try:
                stretch.recognition.feed(pcm)
            except EngineError as error:
                self._end_stretch()
                await self._error("stt-failed", str(error))

    @property
    def _open_stretch(self) -> Stretch | None:
        return self._stretches[-1] if self._stretches and self._stretches[-1].is_open else None

    def _end_stretch(self) -> None:
        stretch = self._open_stretch
        if stretch is not None and stretch.recognition is not None:
            stretch.is_open = False
            stretch.vad.end(counts=False)
            hearing = metrics.EngineCall("stt", self.parts.labels["stt"])
            future = stretch.recognition.finish()
            hearing.end_with(future)
            future.add_done_callback(lambda done: self._post_from_thread(self._finished, stretch, done))

    def _take_up_vocabulary(self, now_ms: float) -> None:
        """The last one, loaded while nobody speaks: loading takes a second, and what is said meanwhile would wait."""
        if self._open_stretch is None and now_ms >= self._next_vocabulary_ms:
            self._next_vocabulary_ms = now_ms + VOCABULARY_EVERY_MS
            if (latest := self.parts.vocabulary()) != self._vocabulary:
                self._vocabulary = latest
                self.parts.hear.prepare(latest)

    async def _heard(self, holder: list[Stretch], transcript: Transcript) -> None:
        if holder and holder[0] in self._stretches and not holder[0].is_final:
            holder[0].text = transcript.text
            await self._tell_heard()

    async def _finished(self, stretch: Stretch, future: Future[Transcript]) -> None:
        if stretch not in self._stretches or future.cancelled():
            return
        stretch.is_final, stretch.recognition = True, None
        try:
            transcript = future.result()
        except EngineError as error:
            await self._error("stt-failed", f"What was said was not heard: {error}")
        else:
            stretch.text, stretch.confidence = transcript.text, transcript.confidence
            self._speaker = transcript.speaker or self._speaker
        await self._tell_heard()

    async def _tell_heard(self) -> None:
        text = " ".join(stretch.text for stretch in self._stretches if stretch.text)
        is_final = all(stretch.is_final for stretch in self._stretches)
        if text != self._said:
            self._said = text
            await self._send("transcript.partial", text=text)
        await self._happened(Heard(text, is_final))
        self._look_ahead()

    # --- the turn manager ----

    async def _happened(self, event: Event) -> None:
        if isinstance(event, Committed) and self._gate.is_open:
            self._silent_since_ms = self.now_ms()
            self._end_stretch()
            self._gate.reset()
            if self.state is not State.INTERRUPTED:
                await self._duck(False)
        if isinstance(event, Committed) and not self._stretches:
            return  # nothing was said
        before = self.state
        said = self._playback.sentence_at(self.now_ms())
        self._manager.agent_was_saying = said.text if said else ""
        self._manager.asked = self._turn.text if self._turn else ""
        effects = self._manager.handle(event, self.now_ms())
        for effect in effects:
            await self._apply(effect, is_typed=isinstance(event, Asked))
        if self.state is not before:
            await self._send("turn.state", state=self.state.value)
            if self.state is State.LISTENING:
                await self._stay_awake()

    async def _duck(self, on: bool) -> None:
        if on is not self._is_ducked:
            self._is_ducked = on
            await self._send("audio.duck", on=on)

    async def _apply(self, effect: Effect, *, is_typed: bool) -> None:
        match effect:
            case BeginTurn(text, _):
                await self._begin_turn(text, is_typed=is_typed)
            case CancelTurn():
                await self._end_turn("cancelled")
            case Duck():
                await self._duck(True)
            case Unduck():
                await self._duck(False)
            case StopSpeaking(hold, kind):
                await self._stop_speaking(hold=hold, kind=None if kind is None else kind.value)
            case OfferResume():
                if self._turn is not None:
                    self._queue.append(Line(self._turn, len(self._turn.lines), OFFER))
            case ResumeSpeaking():
                await self._resume()
            case DropHeld():
                self._held = None
            case ForgetSpeech(reason):
                self._forget_speech()
                if reason not in {"answered", "typed", "resume"}:
                    await self._send("turn.ignored", reason=reason)

    def _forget_speech(self) -> None:
        for stretch in self._stretches:
            if not stretch.is_open and stretch.recognition is not None:
                stretch.recognition.cancel()
        self._stretches = [stretch for stretch in self._stretches if stretch.is_open]
        self._said = ""

    async def _look_at_clock(self) -> None:
        now_ms = self.now_ms()
        self._take_up_vocabulary(now_ms)
        await self._doze_off()
        deadline_ms = self._manager.situation.deadline_ms
        if deadline_ms is not None and now_ms >= deadline_ms:
            if self.state is State.LISTENING and self._manager.situation.is_speaking:
                await self._happened(Committed())
            else:
                await self._happened(Tick())
        turn = self._turn
        is_silent = not self._queue and self._making is None and not self._made and not self._paused
        if turn is None or not turn.is_written or not is_silent:
            return
        if self.state is State.THINKING and not turn.has_sounded:
            await self._happened(AnswerFailed())
            await self._end_turn("failed")
        elif self.state in {State.SPEAKING, State.INTERRUPTED} and self._playback.is_over(now_ms):
            self._playback.stop(now_ms)
            turn.heard = [line.text for line in turn.lines]
            await self._end_turn("heard")
            await self._happened(PlaybackEnded())

    # --- answering ----

    def _request(self, text: str) -> AnswerRequest:
        return AnswerRequest(
            query=text,
            collection=self.options.collection or None,
            agent=self.options.agent,
            history=tuple(self._history),
            in_haste=True,
        )

    def _look_ahead(self) -> None:
        """Once they pause, search for what was heard so far: mostly it is all there is."""
        text = self._said.strip()
        if self.state is not State.ENDPOINTING or not text or completeness(text) is Completeness.OPEN:
            return
        if self._guess is not None and self._guess[0] == text:
            return
        if _searches.running and not all(stretch.is_final for stretch in self._stretches):
            return  # the cores are needed: what was heard may still change, and then it was for nothing
        self._drop_guess()
        task = asyncio.create_task(self._prepare(text, str(uuid7())))
        task.add_done_callback(lambda done: done.cancelled() or done.exception())
        self._guess = (text, task)

    def _drop_guess(self) -> None:
        if self._guess is not None:
            self._guess[1].cancel()
            self._guess = None

    async def _prepare(self, text: str, request_id: str) -> Prepared:
        request = self._request(text)

        def search() -> Prepared:
            # Counted on the thread: it goes on when nobody waits for it any more.
            with _searches:
                return prepare(request, self.principal, request_id=request_id)

        return await in_thread(search)()

    async def _begin_turn(self, text: str, *, is_typed: bool) -> None:
        now_ms = self.now_ms()
        self._turn_count += 1
        since_ms = now_ms if is_typed else self._silent_since_ms
        turn = Turn(self._turn_count, text, str(uuid7()), now_ms, since_ms, is_typed=is_typed)
        if not is_typed:
            turn.transcript_at_ms = now_ms
            heard = [stretch.confidence for stretch in self._stretches if stretch.text]
            confidence = sum(heard) / len(heard) if heard else 0.0
            await self._send("transcript.final", text=text, confidence=round(confidence, 3), language="en")
        await self._send("turn.started", turn=turn.number, text=text)
        guess, self._guess = self._guess, None
        if guess is not None and guess[0] == text:
            turn.speculative = True
            preparing = guess[1]
        else:
            if guess is not None:
                guess[1].cancel()
            preparing = asyncio.create_task(self._prepare(text, turn.request_id))
        self._turn = turn
        turn.task = asyncio.create_task(self._answer(turn, preparing))

    async def _answer(self, turn: Turn, preparing: asyncio.Task[Prepared]) -> None:
        try:
            await in_thread(self._charge)()
            prepared = await preparing
            turn.request_id, turn.prepared, turn.voice = prepared.request_id, prepared, prepared.agent.voice
            async with aclosing(stream_prepared(prepared, turn.draft)) as events:
                async for event in events:
                    self._post(self._answered, turn, event)
        except asyncio.CancelledError:
            preparing.cancel()
            raise
        except Exception as error:
            preparing.cancel()
            problem = as_problem(error)
            if problem.status >= 500 and not isinstance(error, Problem):
                logger.error("A spoken question could not be answered", exc_info=error)
            self._post(self._failed, turn, problem.detail or problem.title)
        else:
            self._post(self._written, turn)

    async def _answered(self, turn: Turn, event: object) -> None:
        if turn is not self._turn or turn.is_ended:
            return
        match event:
            case RetrievalEvent():
                turn.retrieval_at_ms = self.now_ms()
                passages = [_passage(passage) for passage in event.passages]
                await self._send("retrieval", turn=turn.number, passages=passages, degraded=list(event.degraded))
            case TokenEvent(text):
                turn.first_token_at_ms = turn.first_token_at_ms or self.now_ms()
                await self._send("answer.delta", turn=turn.number, text=text)
                for sentence in turn.sentences.take(text):
                    self._say(turn, sentence)
            case CitationEvent(citation):
                await self._send("citation", turn=turn.number, number=citation.number, quote=citation.quote)
            case DoneEvent(answer):
                turn.answer = answer
            case ErrorEvent(problem, answer):
                turn.has_failed, turn.answer = True, answer
                turn.failure = str(problem.get("detail") or "There is no answer.")
                await self._error("answer-failed", turn.failure)

    def _written(self, turn: Turn) -> None:
        for sentence in turn.sentences.finish():
            self._say(turn, sentence)
        turn.is_written = True

    async def _failed(self, turn: Turn, detail: str) -> None:
        if turn is self._turn and not turn.is_ended:
            turn.has_failed, turn.failure = True, detail
            await self._error("answer-failed", detail)
            self._written(turn)

    def _say(self, turn: Turn, sentence: str) -> None:
        if turn is self._turn and not turn.is_ended and spoken(sentence):
            line = Line(turn, len(turn.lines), sentence.strip())
            turn.lines.append(line)
            self._queue.append(line)

    async def _end_turn(self, outcome: str) -> None:
        """The turn is over; what was heard of it is remembered."""
        turn = self._turn
        if turn is None or turn.is_ended:
            return
        turn.is_ended = True
        if turn.task is not None and not turn.task.done():
            turn.task.cancel()
        heard = " ".join(turn.heard)
        if outcome == "cancelled":
            self._silence()
        elif heard:
            self._history.append(contracts.Turn("user", turn.text))
            self._history.append(contracts.Turn("assistant", heard))
        if turn.has_failed and outcome == "heard":
            outcome = "failed"
        metrics.TURNS.labels(outcome).inc()
        await self._send("turn.ended", turn=turn.number, outcome=outcome, heard=heard)
        if outcome != "cancelled" and transcripts.is_kept(self.principal, self.options.keep_transcript):
            self._keeping = asyncio.create_task(self._keep(turn, self._keeping))

    async def _keep(self, turn: Turn, previous: asyncio.Task[None] | None) -> None:
        """Note a turn that is over, once the one before it is."""
        if previous is not None:
            await previous
        first = turn.continues or turn
        heard = turn.heard
        if turn.continues is not None:
            # The sentence that was cut is spoken again from its beginning.
            heard = [*first.heard[: -1 if first.is_cut else None], *heard]
            first.heard, first.is_cut = heard, turn.is_cut
        try:
            if first.answer is None and first.prepared is not None and heard:
                first.answer = await conclude_stopped(first.prepared, first.draft)
            answer = None if first.answer is None else transcripts.heard_of(first.answer, heard)
            kept = await in_thread(transcripts.keep)(
                self.principal,
                first.text,
                answer,
                agent=(self.options.agent or "") if first.prepared is None else first.prepared.agent.slug,
                collection=self.options.collection,
                conversation=self._conversation,
                message=None if first.kept is None else first.kept.message,
                failure=first.failure,
            )
        except Exception as error:
            logger.exception("A spoken turn could not be kept")
            self._post(
                self._error, "transcript-not-kept", f"This turn is not in the transcript: {as_problem(error).title}."
            )
        else:
            first.kept = kept
            self._post(self._told_kept, kept)

    async def _told_kept(self, kept: transcripts.Kept) -> None:
        if kept.conversation != self._conversation:
            self._conversation = kept.conversation
            await self._send("transcript.kept", conversation=kept.conversation)

    # --- speaking ----

    async def _pump(self) -> None:
        """Have the next sentence spoken, and send what is due of it."""
        if self._making is None and not self._made and self._queue and self._has_room:
            await self._make(self._queue.popleft())
        while self._made and self._has_room:
            line, pcm, is_last = self._made.popleft()
            await self._play(line, pcm, is_last=is_last)

    @property
    def _has_room(self) -> bool:
        return self.outlet is not None and self._playback.ahead_ms(self.now_ms()) < MOST_AHEAD_MS

    async def _make(self, line: Line) -> None:
        line.samples, line.is_made = 0, False
        text = spoken(line.text)[:SPOKEN_LONGEST]
        line.turn.speaking_since_ms = line.turn.speaking_since_ms or self.now_ms()
        holder: list[Utterance] = []
        rest = bytearray()
        speaking = metrics.EngineCall("tts", self.parts.labels["tts"])
        size = 2 * (self.parts.speak.sample_rate_hz * OUT_FRAME_MS // 1000)

        def take(pcm: bytes) -> None:
            rest.extend(pcm)
            while len(rest) >= size:
                self._post_from_thread(self._sounded, line, bytes(rest[:size]))
                del rest[:size]

        def done(future: Future[None]) -> None:
            self._post_from_thread(self._spoken, line, bytes(rest), future)

        try:
            voice = voice_named(self.options.voice or line.turn.voice, self.parts.speak.voices())
            holder.append(self.parts.speak.speak(text, take, style=self.options.style, voice=voice))
        except (EngineError, ValueError) as error:
            speaking.end(error)
            await self._error("tts-failed", str(error))
            return
        self._making = (line, holder[0])
        speaking.end_with(holder[0].done)
        holder[0].done.add_done_callback(done)

    def _sounded(self, line: Line, pcm: bytes) -> None:
        if self._making is not None and self._making[0] is line:
            line.samples += self._samples_of(pcm)
            self._made.append((line, pcm, False))

    async def _spoken(self, line: Line, rest: bytes, future: Future[None]) -> None:
        if self._making is None or self._making[0] is not line:
            return
        self._making, line.is_made = None, True
        if not future.cancelled() and (error := future.exception()) is not None:
            await self._error("tts-failed", f"A sentence could not be spoken: {error}")
            line.turn.has_failed = True
        # The last frame carries the mark, so that there always is one.
        line.samples += self._samples_of(rest)
        self._made.append((line, rest or bytes(2), True))

    def _samples_of(self, pcm: bytes) -> int:
        """What sound of the engine's rate counts in the playback's."""
        return len(pcm) // 2 * self._playback.rate_hz // self.parts.speak.sample_rate_hz

    async def _play(self, line: Line, pcm: bytes, *, is_last: bool) -> None:
        now_ms = self.now_ms()
        current = self._playback.sentence_in_sending
        if current is None or current.key is not line:
            sentence = self._playback.begin_sentence(line, line.index, line.text)
            await self._send(
                "audio.sentence",
                turn=line.turn.number,
                sentence=line.index,
                text=line.text,
                position=sentence.start,
            )
        if self._encode is None:
            frames = [(pcm, pcm)]
        else:
            frames = await self._loop.run_in_executor(_threads, partial(self._encode, pcm, is_last=is_last))
        for number, (sent, heard) in enumerate(frames, 1):
            self._playback.send(heard, now_ms)
            self._frame_number += 1
            outlet = self.outlet
            if outlet is not None:
                ends = is_last and number == len(frames)
                await outlet.send_bytes(sound_frame(line.index, self._frame_number, sent, is_last=ends))
        if not line.turn.has_sounded:
            line.turn.has_sounded = True
            await self._tell_latency(line.turn, self.now_ms())
            await self._happened(AnswerSounds())

    async def _tell_latency(self, turn: Turn, now_ms: float) -> None:
        def since(at_ms: float | None) -> float | None:
            return None if at_ms is None else round(at_ms - turn.silent_since_ms, 1)

        figures = {
            "endpoint_ms": since(turn.asked_at_ms),
            "transcript_ms": since(turn.transcript_at_ms),
            "retrieval_ms": since(turn.retrieval_at_ms),
            "first_token_ms": since(turn.first_token_at_ms),
            "first_audio_ms": since(now_ms),
        }
        for name, value in figures.items():
            if value is not None:
                metrics.TURN_LATENCY.labels(name.removesuffix("_ms")).observe(max(value, 0.0) / 1000)
        turn.tts_ms = now_ms - (turn.speaking_since_ms or now_ms)
        timings = {"tts_ms": turn.tts_ms}
        if turn.transcript_at_ms is not None:
            timings["stt_ms"] = max(turn.transcript_at_ms - turn.silent_since_ms, 0.0)
        # The time of the generation is in the row of the search.
        metrics.record_turn(
            request_id=turn.request_id,
            text=turn.text,
            collection=self.options.collection,
            principal=self.principal,
            timings_ms=timings,
            failed=False,
        )
        await self._send("metrics", turn=turn.number, speculative=turn.speculative, **figures)

    def _silence(self) -> list[Line]:
        """Stop making and sending sound. The lines of which something is still to be heard, in their order."""
        position, sentences = self._playback.stop(self.now_ms())
        cut: list[Line] = []
        for sentence in sentences:
            line = sentence.key
            played = max(min(position, sentence.end) - sentence.start, 0)
            share = 1.0 if line.is_made and played >= line.samples else played / max(line.samples, 1)
            if share < 1.0 or not line.is_made:
                cut.append(line)
            if line.turn.lines and line.text is not OFFER:
                words = line.text.split()
                heard = words if share >= 1.0 else words[: int(len(words) * share)]
                if heard:
                    line.turn.heard.append(" ".join(heard))
                    line.turn.is_cut = share < 1.0
        waiting = [line for line, _, _ in self._made]
        if self._making is not None:
            waiting.append(self._making[0])
            self._making[1].cancel()
            self._making = None
        rest: list[Line] = []
        for line in [*cut, *waiting, *self._queue]:
            if line not in rest:
                rest.append(line)
        self._made.clear()
        self._queue.clear()
        return rest

    async def _stop_speaking(self, *, hold: bool, kind: str | None) -> None:
        if kind is not None:
            metrics.INTERRUPTIONS.labels(kind).inc()
        turn = self._turn
        if turn is not None:
            self._written_so_far(turn)
        rest = [line for line in self._silence() if line.text is not OFFER]
        await self._send("interrupted", position=self._playback.sent, kind=kind)
        if turn is not None and not turn.is_ended:
            if hold and rest:
                self._held = (turn, rest)
            await self._end_turn("interrupted" if hold else "stopped")

    def _written_so_far(self, turn: Turn) -> None:
        """What was written but is no whole sentence yet is one now: no more of it will come."""
        if not turn.is_ended and not turn.is_written:
            self._written(turn)

    async def _resume(self) -> None:
        held, self._held = self._held, None
        if held is None:
            return
        interrupted, rest = held
        self._turn_count += 1
        now_ms = self.now_ms()
        turn = Turn(self._turn_count, interrupted.text, str(uuid7()), now_ms, now_ms, is_written=True, has_sounded=True)
        turn.continues, turn.voice = interrupted.continues or interrupted, interrupted.voice
        turn.lines = [Line(turn, line.index, line.text) for line in rest]
        self._turn = turn
        self._queue.extend(turn.lines)
        await self._send("resumed", sentence=rest[0].index)

    # --- the end ----

    async def _close(self) -> None:
        """Give everything back. Nothing of the session runs afterwards."""
        self._drop_guess()
        for stretch in self._stretches:
            if stretch.recognition is not None:
                stretch.recognition.cancel()
            stretch.vad.end(counts=False)
        self._stretches.clear()
        if self._doze is not None:
            self._doze.watch.cancel()
            self._doze = None
        self.outlet = None
        self._silence()
        await self._end_turn("stopped")
        turn = self._turn
        if turn is not None and turn.task is not None:
            turn.task.cancel()
            with suppress(asyncio.CancelledError, Exception):
                await turn.task
        if self._keeping is not None:
            await self._keeping
        self._control.clear()
        self._sound.clear()


def voice_named(name: str, voices: Sequence[str]) -> str:
    """The voice of that name, or the first of that language, such as ``en-GB``; else none, which is the default."""
    if name in voices:
        return name
    language = name.replace("_", "-").casefold()
    return next((one for one in voices if language and one.replace("_", "-").casefold().startswith(language)), "")


def _passage(passage: contracts.Passage) -> dict[str, Any]:
    return {
        "number": passage.number,
        "document": passage.pk,
        "document_id": passage.document_id,
        "title": passage.title,
        "source": passage.source,
        "page": passage.page,
        "url": passage.external_url,
        "text": passage.text[:4000],
    }
